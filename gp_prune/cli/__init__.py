"""Provide the command line ``gp-prune``; report all failures in the same way.

May import every package; open this file first. A command is imported when it is used.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

import click

from gp_prune import __version__
from gp_prune.errors import UserError
from gp_prune.report.text import echo

BAD_INPUT = 2
INTERRUPTED = 130
_SIGNALLED = 128


class LazyCommand(NamedTuple):
    """Name a command that is not imported yet.

    Attributes:
        path: ``module:attribute`` of the click command.
        help: one line for the list of commands, so that listing imports nothing.
    """

    path: str
    help: str


class CommandGroup(click.Group):
    """Run commands by name, and import them when they are used.

    An error of the user (:class:`~gp_prune.errors.UserError` or wrong use of the command line) is
    one sentence on stderr and exit code 2; an interrupt is one line and exit code 130 (143 by
    SIGTERM, 129 by SIGHUP); a reader that closes the pipe ends the program quietly. Any other
    exception is a fault of the program and shows its traceback.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which they were given."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of that name; None if there is none."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name].path.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command as click does; suggest the nearest name where there is no such one."""
        close = difflib.get_close_matches(args[0], self.lazy, n=1)
        if args[0] not in self.lazy and close:
            ctx.fail(f"no command {args[0]!r}, did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and short helps, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self.lazy.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; end the process unless ``standalone_mode`` is false."""
        call = dict(args=args, prog_name=prog_name, complete_var=complete_var, **extra)
        if not standalone_mode:
            return super().main(standalone_mode=False, **call)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal that lacks a character shows "?" and the result is not lost.
                stream.reconfigure(errors="replace")
        with warnings.catch_warnings(), _catch_signals() as caught:
            warnings.showwarning = _show_warning
            code = self._run(call)
        sys.exit(_SIGNALLED + caught[0] if caught else code)

    def _run(self, call: Mapping[str, Any]) -> int:
        """Run, and return the exit code of every expected end."""
        try:
            code = super().main(standalone_mode=False, **call)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except UserError as error:
            return _fail(str(error))
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "gp-prune"
            return _fail(error.format_message(), hint=f"see '{path} --help'")
        except click.ClickException as error:
            return _fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
            echo("gp-prune: interrupted", err=True)
            return INTERRUPTED
        except SystemExit as end:  # a shell has asked for completions, or a pipe was closed
            return end.code if isinstance(end.code, int) else 1
        except BrokenPipeError:
            # Python flushes stdout once more when it exits; discard that.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return _fail(f"{error.filename or 'the system'}: {error.strerror or error}")


@contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """End the body as Ctrl-C does on SIGTERM and SIGHUP; yield a list of what has come."""
    caught: list[int] = []

    def interrupt(number: int, _: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    # What nohup or the caller has decided about a signal stays.
    ours = [n for n in numbers if n is not None and signal.getsignal(n) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield caught
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _fail(message: str, hint: str = "") -> int:
    sentence = " ".join(message.split())
    if hint:
        sentence = f"{sentence.rstrip('.')}; {hint}"
    echo(f"gp-prune: error: {sentence}", err=True)
    return BAD_INPUT


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line, without its place in the code."""
    echo(f"gp-prune: warning: {' '.join(str(message).split())}", err=True)


COMMANDS = {
    "evolve": LazyCommand(
        "gp_prune.cli.evolve:evolve", "Search for new metrics by genetic programming."
    ),
    "evaluate": LazyCommand(
        "gp_prune.cli.evaluate:evaluate", "Judge one formula by the objectives of a search."
    ),
    "compare": LazyCommand("gp_prune.cli.compare:compare", "Compare metrics at equal budgets."),
    "apply": LazyCommand("gp_prune.cli.apply:apply", "Prune a network by a metric."),
    "genetic": LazyCommand(
        "gp_prune.cli.genetic:genetic", "Prune one network by a genetic algorithm."
    ),
    "autoencode": LazyCommand(
        "gp_prune.cli.autoencode:autoencode", "Train autoencoders and prune them during training."
    ),
    "report": LazyCommand("gp_prune.cli.report:report", "Show a run as a web page."),
    "tasks": LazyCommand("gp_prune.cli.tasks:list_tasks", "List the built-in tasks."),
    "list": LazyCommand("gp_prune.cli.describe:list_metrics", "List the bundled metrics."),
    "show": LazyCommand("gp_prune.cli.describe:show", "Show everything that a metric contains."),
    "pair": LazyCommand(
        "gp_prune.cli.pair:pair", "Save a metric with another one that divides budgets."
    ),
    "doctor": LazyCommand(
        "gp_prune.cli.doctor:doctor", "Say what is installed, found and missing."
    ),
    "latex": LazyCommand("gp_prune.cli.describe:latex", "Print metrics as LaTeX."),
    "completion": LazyCommand(
        "gp_prune.cli.completion:completion", "Print the completion script of a shell."
    ),
}
"""All commands with the path of their code, which is imported when the command is used."""


@click.group(
    name="gp-prune",
    cls=CommandGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="gp-prune", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Discover pruning metrics by genetic programming, apply them, print them as formulas."""
    if context.invoked_subcommand is None:
        echo(context.get_help())
