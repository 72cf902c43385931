"""`python -m marketplace_metering_async`, and the console command `marketplace-metering`."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; say how to get it where the extra `cli` is not installed."""
    try:
        from marketplace_metering_async import cli  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.stderr.write(
            "the command line needs its extra: pip install 'marketplace-metering-async[cli]'\n"
        )
        return 2
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
