"""The `dora` commands: each module parses, calls and prints. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import errno
import traceback
from functools import lru_cache
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from dora_cli.commands import compare as compare_command
from dora_cli.commands import data as data_command
from dora_cli.commands import doctor as doctor_command
from dora_cli.commands import eval as eval_command
from dora_cli.commands import export as export_command
from dora_cli.commands import init as init_command
from dora_cli.commands import methods as methods_command
from dora_cli.commands import models as models_command
from dora_cli.commands import predict as predict_command
from dora_cli.commands import ranks as ranks_command
from dora_cli.commands import report as report_command
from dora_cli.commands import score as score_command
from dora_cli.commands import tasks as tasks_command
from dora_cli.commands import train as train_command
from dora_cli.errors import DoraError, StoppedError
from dora_cli.printable import indented, say
from dora_cli.version import __version__


class _Group(TyperGroup):
    """Turns errors a user can fix into one message on stderr and their exit code.

    Commands find the words of the command line in their context's ``meta``, as ``arguments``.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        ctx.meta["arguments"] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # pydantic's words, by which newer versions of typer read arguments
            error.message = error.message.removeprefix("Value error, ")
            raise
        except DoraError as error:
            if ctx.params.get("debug"):
                say(traceback.format_exc(), err=True, end="")
            from dora_cli.machine.processes import is_main

            if is_main():
                message = indented(str(error).strip() or "unknown error")
                what = "dora:" if isinstance(error, StoppedError) else "dora: error:"
                with contextlib.suppress(OSError):  # the terminal may be gone
                    say(f"{what}\n  {message}" if "\n" in message else f"{what} {message}", err=True)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            # a full disk, a file that was taken away: whatever no room foresaw, it is the user's to fix
            # whoever reads our output may stop reading: typer ends quietly
            if ctx.params.get("debug") or error.errno == errno.EPIPE:
                raise
            # stdout and stderr have no name, and these are what they fail by; a connection may fail without a name too
            output = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
            what = f"output cannot be written: {error.strerror}" if output else str(error)
            say(f"dora: error: {indented(what)}; dora --debug {ctx.invoked_subcommand} ... shows where", err=True)
            raise typer.Exit(DoraError.exit_code) from None
        except KeyboardInterrupt:
            say("dora: stopped by SIGINT", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        say(f"dora {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Fine-tune a transformer with DoRA, Dynamic Low-Rank Adaptation (Mao et al. 2024, arXiv 2405.17357).

    Not the weight-decomposed DoRA of Liu et al. (PEFT's use_dora), an unrelated method.
    """


app.command("init", epilog=init_command.EPILOG)(init_command.init)
app.command("data", epilog=data_command.EPILOG)(data_command.data)
app.command("train", epilog=train_command.EPILOG)(train_command.train)
app.command("eval", epilog=eval_command.EPILOG)(eval_command.evaluate)
app.command("compare", epilog=compare_command.EPILOG)(compare_command.compare)
app.command("predict", epilog=predict_command.EPILOG)(predict_command.predict)
app.command("ranks", epilog=ranks_command.EPILOG)(ranks_command.ranks)
app.command("report", epilog=report_command.EPILOG)(report_command.report)
app.command("score", epilog=score_command.EPILOG)(score_command.score)
app.command("export", epilog=export_command.EPILOG)(export_command.export)
app.command("tasks", epilog=tasks_command.EPILOG)(tasks_command.tasks)
app.command("models", epilog=models_command.EPILOG)(models_command.models)
app.command("methods", epilog=methods_command.EPILOG)(methods_command.methods)
app.command("doctor", epilog=doctor_command.EPILOG)(doctor_command.doctor)


@lru_cache(maxsize=1)
def program() -> Any:
    """What reads a command line and runs the command. It takes as long to make as a small command does, so who runs
    several in one process makes it once.
    """
    return get_command(app)
