"""Runs what a command does, and ends with its code or with the code of what went wrong."""

import asyncio
import errno
from collections.abc import Callable, Coroutine, Iterator
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_origin, get_type_hints

import attrs
import typer

from marketplace_metering_async.cli import exit_codes
from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.options import Settings
from marketplace_metering_async.cli.output.advice import as_typed
from marketplace_metering_async.cli.output.console import PLAIN, Console, Log, LogFormat, error_text
from marketplace_metering_async.errors import InvalidRecordError, MeteringError


def run_by_options(work: Callable[..., Coroutine[Any, Any, Exit | None]]) -> Callable[..., None]:
    """
    Return what typer calls with the options: it runs *work*, and leaves with its code.

    *work* takes the console first. A parameter of a class of attrs stands for the options that
    the class's fields are annotated as; of Settings, it also says what goes to the console.
    """
    hints = get_type_hints(work, include_extras=True)
    _, *parameters = signature(work).parameters.values()
    groups = {one.name: hints[one.name] for one in parameters if attrs.has(hints[one.name])}

    @wraps(work)
    def run(**given: Any) -> None:  # noqa: ANN401 - what was typed
        log = PLAIN
        for name, kind in groups.items():
            options = kind(**{option.name: given.pop(option.name) for option in _options_of(kind)})
            log = options.log if isinstance(options, Settings) else log
            given[name] = options
        finish(partial(work, **given), log)

    shown = [
        option
        for one in parameters
        for option in (_options_of(groups[one.name]) if one.name in groups else [one])
    ]
    run.__signature__ = Signature(  # type: ignore[attr-defined]  # which typer goes by
        [one.replace(kind=Parameter.KEYWORD_ONLY) for one in shown]
    )
    return run


def _options_of(kind: type[attrs.AttrsInstance]) -> Iterator[Parameter]:
    for field in attrs.fields(kind):
        if get_origin(field.type) is Annotated:
            default = Parameter.empty if field.default is attrs.NOTHING else field.default
            yield Parameter(
                field.name, Parameter.KEYWORD_ONLY, default=default, annotation=field.type
            )


def finish(work: Callable[[Console], Coroutine[Any, Any, Exit | None]], log: Log) -> None:
    """
    Run *work* with the console and leave with its code; what it raises is printed in a line.

    Raises:
        typer.Exit: unless there is no code.
        typer.BadParameter: where people are to see it as typer shows it.
    """
    console = Console(log)
    code: Exit | None
    try:
        code = asyncio.run(work(console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = Exit.INTERRUPTED
    except typer.BadParameter as error:
        if log.format is LogFormat.TEXT:
            raise
        console.complain(error.format_message())
        code = Exit.USAGE
    except MisuseError as error:
        console.complain(error)
        code = Exit.USAGE
    except InvalidRecordError as error:  # of options; lines of files have been complained of before
        console.complain(as_typed(error))
        code = exit_codes.of_error(error)
    except MeteringError as error:
        console.complain(error_text(error))
        code = exit_codes.of_error(error)
    except OSError as error:
        hint = "; give another --port (0: a free one)" if error.errno == errno.EADDRINUSE else ""
        console.complain(f"{error.strerror or error}{hint}")
        code = Exit.USAGE
    if code is not None:
        raise typer.Exit(code)
