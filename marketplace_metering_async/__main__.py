"""`python -m marketplace_metering_async`, and the console command `marketplace-metering`."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line with *argv* (by default that of the process) and return its exit code.

    Where the extra `cli` is not installed, say how to get it.
    """
    try:
        from marketplace_metering_async import cli  # noqa: PLC0415 - an extra

        return cli.main(argv)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.stderr.write(
            "the command line needs its extra: pip install 'marketplace-metering-async[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:  # which Python makes of one that comes amid its own steps
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        return 130


if __name__ == "__main__":
    sys.exit(main())
