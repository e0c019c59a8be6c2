"""The group of all commands: each is imported when it is used, and all fail in one way."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import queue
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, TextIO

import click

from gp_prune.errors import UserError

SECONDS = 1.0
"""Time between the loss of an interrupt and its repetition."""


@contextmanager
def insistent_interrupts(seconds: float = SECONDS) -> Iterator[None]:
    """In the body, Ctrl-C raises KeyboardInterrupt, and again where the exception got lost.

    An exception that a signal raises may come up anywhere, also where a library or a function of
    the user catches whatever comes (Python's copyreg does) or where Python drops exceptions (in
    finalizers). The program would go on. Nothing is repeated while the exception is on its way,
    so that no cleaning up is disturbed: as long as somebody handles it or keeps it.

    Where SIGINT is ignored or somebody handles it already, and outside the main thread, nothing
    is changed.

    Args:
        seconds: at most so long after its loss an interrupt is repeated.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    repeater = _Repeater(seconds)
    signal.signal(signal.SIGINT, repeater.interrupt)
    try:
        yield
    finally:
        # Before any call, in which the next interrupt may come.
        repeater.leaving = True
        repeater.end()
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Interrupt(KeyboardInterrupt):
    """A KeyboardInterrupt that can be watched; those of Python cannot."""


class _Repeater:
    """Interrupts the main thread, which makes it, anew when the exception of an interrupt is gone.

    Attributes:
        leaving: whether interrupts have no effect any more.
    """

    def __init__(self, seconds: float) -> None:
        self.leaving = False
        self._seconds = seconds
        self._main = threading.get_ident()
        self._on_its_way = False
        # Of all queues and events, this one alone may be used in a signal handler.
        self._interrupted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._repeat, name="interrupts", daemon=True)
        self._thread.start()

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT: raise KeyboardInterrupt and watch it."""
        if self.leaving:
            return
        raised = _Interrupt()
        self._on_its_way = True
        # A callback: the other thread must not hold the exception, which holds all the frames.
        self._watched = weakref.ref(raised, self._lost)
        self._interrupted.put(True)
        try:
            raise raised
        finally:
            del raised  # or its traceback would keep it alive

    def end(self) -> None:
        """Repeat no more."""
        self._interrupted.put(False)
        self._thread.join()

    def _lost(self, watched: weakref.ref[_Interrupt]) -> None:
        self._on_its_way = False

    def _repeat(self) -> None:
        going_on = self._interrupted.get()
        while going_on:
            try:
                going_on = self._interrupted.get(timeout=self._seconds)
            except queue.Empty:
                if self._on_its_way:
                    continue
                if hasattr(signal, "pthread_kill"):
                    # A true signal: it also wakes a main thread that waits for a lock.
                    signal.pthread_kill(self._main, signal.SIGINT)
                else:
                    signal.raise_signal(signal.SIGINT)


BAD_INPUT = 2
INTERRUPTED = 130


class LazyCommand(NamedTuple):
    """A command that is not imported yet.

    Attributes:
        place: ``module:attribute`` of the click command.
        help: one line for the list of commands, so that listing imports nothing.
    """

    place: str
    help: str


class CommandGroup(click.Group):
    """Commands by name, imported late.

    What the user can mend (:class:`~gp_prune.errors.UserError` and wrong use of the command line)
    is one sentence on stderr and exit code 2; an interrupt is one line and exit code 130; a reader
    that closes the pipe ends the program quietly. Anything else is a fault of the program and
    shows its traceback.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they were given."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; None if there is none."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name].place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name where there is no such command."""
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
        """Run the command line; ends the process unless ``standalone_mode`` is false."""
        call = dict(args=args, prog_name=prog_name, complete_var=complete_var, **extra)
        if not standalone_mode:
            return super().main(standalone_mode=False, **call)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal without a sign shows "?" for it; a result is never lost for it.
                stream.reconfigure(errors="replace")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = self._run(call)
        sys.exit(code)

    def _run(self, call: Mapping[str, Any]) -> int:
        """Run, and turn every expected end into an exit code."""
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
            click.echo("gp-prune: interrupted", err=True)
            return INTERRUPTED
        except BrokenPipeError:
            # Python flushes stdout once more at its end; let that go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return _fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def _fail(message: str, hint: str = "") -> int:
    sentence = " ".join(message.split())
    if hint:
        sentence = f"{sentence.rstrip('.')}; {hint}"
    click.echo(f"gp-prune: error: {sentence}", err=True)
    return BAD_INPUT


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line for a person, without the place in the code."""
    click.echo(f"gp-prune: warning: {' '.join(str(message).split())}", err=True)
