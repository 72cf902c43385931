"""What `--help` shows: plain text with examples, alike on every terminal and by every typer."""

import re
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from textwrap import wrap
from typing import Any, Final, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output.console import write_out
from marketplace_metering_async.cli.running import run_by_options

Work = TypeVar("Work", bound=Callable[..., Coroutine[Any, Any, Exit]])
Context = Any
"""Click's, or that of typer's own copy of click: it depends on typer's version."""

PROGRAM: Final = "marketplace-metering"
_WIDEST: Final = 100
_NARROWEST: Final = 40
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
_TERMS: Final = 30
"""Columns for names of options; a longer one has its text on the next line."""


def examples(*lines: str) -> str:
    """Return what stands below the options: commands to copy, without the program's name."""
    return "\n".join(["Examples:", *(f"  {PROGRAM} {line}" for line in lines)])


class Command(TyperCommand):
    """A command that shows its help as this module has it."""

    def get_usage(self, ctx: Context) -> str:
        """Return the line that says how to call it."""
        return _usage(self, ctx)

    def get_help(self, ctx: Context) -> str:
        """Return the whole help."""
        return "\n".join(_help(self, ctx, ()))

    def get_help_option(self, ctx: Context) -> Any:  # noqa: ANN401 - as Context
        """Return the option that shows it."""
        return _shown_as_results(super().get_help_option(ctx))


class Group(TyperGroup):
    """As Command, for the commands of a group."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Show the help where no command is given."""
        if not (args or ctx.resilient_parsing or self.invoke_without_command):
            with suppress(OSError):
                typer.echo(self.get_help(ctx), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def get_usage(self, ctx: Context) -> str:
        """Return the line that says how to call it."""
        return _usage(self, ctx)

    def get_help(self, ctx: Context) -> str:
        """Return the whole help."""
        named = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        return "\n".join(_help(self, ctx, [(n, (c and c.help) or "") for n, c in named]))

    def get_help_option(self, ctx: Context) -> Any:  # noqa: ANN401 - as Context
        """Return the option that shows it."""
        return _shown_as_results(super().get_help_option(ctx))


class App(typer.Typer):
    """Commands whose help this module shows."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - those of Typer
        names = {"help_option_names": ["-h", "--help"]}
        super().__init__(cls=Group, context_settings=names, **settings)

    def command(  # type: ignore[override]  # takes less than Typer's
        self, *lines: str, name: str | None = None
    ) -> Callable[[Work], Work]:
        """Make a command of what it does (`run_by_options`); *lines* are examples of its use."""
        epilog = examples(*lines) if lines else ""

        def register(work: Work) -> Work:
            super(App, self).command(name, cls=Command, epilog=epilog)(run_by_options(work))
            return work

        return register


def _shown_as_results(option: Any) -> Any:  # noqa: ANN401 - as Context
    """Let the option write to stdout as results are written: on a full disk, and to nobody."""

    def show(ctx: Context, _: object, wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
        if wanted and not ctx.resilient_parsing:
            text = ctx.get_help()
            on_screen = sys.stdout is not None and sys.stdout.isatty()
            write_out(f"{text if on_screen else _STYLE.sub('', text)}\n", styled=True)
            ctx.exit()

    option.callback = show
    return option


def _usage(command: TyperCommand | TyperGroup, ctx: Context) -> str:
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    pieces = [_name(one) for one in arguments]
    if isinstance(command, TyperGroup):
        pieces = ["COMMAND ..."]
    return " ".join(["Usage:", ctx.command_path, "[OPTIONS]", *pieces])


def _help(
    command: TyperCommand | TyperGroup, ctx: Context, commands: Sequence[tuple[str, str]]
) -> Iterator[str]:
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((80, 24)).columns))
    params = command.get_params(ctx)
    arguments = [(_name(p), p.help or "") for p in params if isinstance(p, TyperArgument)]
    options = [(_option(p), _about(p)) for p in params if isinstance(p, TyperOption)]
    yield _usage(command, ctx)
    yield ""
    for paragraph in (command.help or "").split("\n\n"):
        yield from wrap(" ".join(paragraph.split()), width)
        yield ""
    yield from _section("Arguments", [one for one in arguments if one[1]], width)
    yield from _section("Options", options, width)
    yield from _section("Commands", [(n, text.partition("\n\n")[0]) for n, text in commands], width)
    for line in (command.epilog or "").splitlines():
        yield from [line] if line.startswith("  ") else wrap(line, width)


def _section(name: str, rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    rows = list(rows)
    if not rows:
        return
    column = min(_TERMS, max(len(term) for term, _ in rows) + 4)
    yield f"{typer.style(name, bold=True)}:"
    for term, text in rows:
        lines = wrap(" ".join(text.split()), width - column) or [""]
        if len(term) + 4 > column:
            yield f"  {term}"
        else:
            yield f"  {term:<{column - 2}}{lines.pop(0)}".rstrip()
        yield from (" " * column + line for line in lines)
    yield ""


def _name(argument: TyperArgument) -> str:
    return argument.metavar or (argument.name or "").upper()


def _option(option: TyperOption) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    return names if option.is_flag else f"{names} {option.metavar or (option.name or '').upper()}"


def _about(option: TyperOption) -> str:
    text = option.help or ""
    if option.required:
        text += " [required]"
    elif not option.is_flag and option.default not in (None, "", []) and option.show_default:
        text += f" [default: {option.default}]"
    if option.envvar:
        text += f" [or set {option.envvar}]"
    return text.strip()
