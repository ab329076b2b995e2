"""Click's errors about what was typed, as errors of ours: what is wrong, and what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import click
from click.core import ParameterSource

from jobs.options import Several
from pipeline.errors import UsageError

# What click says of a value that its type refuses begins with the value.
_REFUSED = re.compile(r"(?P<value>.+) is not (a valid|one of|in the range) ", re.DOTALL)


def explained(error: click.UsageError) -> UsageError:
    """The same error with a hint."""
    if isinstance(error, click.exceptions.NoSuchCommand):
        return _no_such_command(error)
    if isinstance(error, click.NoSuchOption):
        return _no_such_option(error)
    if isinstance(error, click.MissingParameter):
        return _missing(error)
    if isinstance(error, click.BadOptionUsage):
        return UsageError(
            f"{error.option_name} {_value_words(error.message)}", hint=_see_help(error.ctx)
        )
    if isinstance(error, click.BadParameter) and error.param is not None:
        return _bad_value(error, error.param)
    return UsageError(f"{_command(error.ctx)}: {_sentence(error.message)}", hint=_form(error.ctx))


def closest(word: str, known: Iterable[str]) -> str:
    """The one of some names that a mistyped word is most like; "" where none is."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    begun = [name for name in names if len(word.strip("-")) > 1 and name.startswith(word)]
    return (close or begun or [""])[0]


def _no_such_command(error: click.exceptions.NoSuchCommand) -> UsageError:
    above, names = _command(error.ctx), _commands(error.ctx)
    word = error.command_name
    if close := closest(word, names):
        return UsageError(f"there is no command {word!r}", hint=f"did you mean `{above} {close}`?")
    return UsageError(
        f"there is no command {word!r}", hint=f"{above} has {', '.join(names)}: see --help"
    )


def _no_such_option(error: click.NoSuchOption) -> UsageError:
    params = error.ctx.command.params if error.ctx else []
    names = [name for param in params for name in (*param.opts, *param.secondary_opts)]
    close = closest(error.option_name, (name for name in names if name.startswith("--")))
    return UsageError(
        f"`{_command(error.ctx)}` has no option {error.option_name}",
        hint=f"did you mean {close}?" if close else _see_help(error.ctx),
    )


def _missing(error: click.MissingParameter) -> UsageError:
    param = error.param
    if param is None or isinstance(param, click.Argument):
        name = param.make_metavar(error.ctx) if param and error.ctx else "an argument"
        return UsageError(f"`{_command(error.ctx)}` needs {name}", hint=_form(error.ctx))
    allowed = _allowed(param.type)
    return UsageError(
        f"`{_command(error.ctx)}` needs {param.opts[0]}",
        hint=f"give {allowed}" if allowed else _see_help(error.ctx),
    )


def _bad_value(error: click.BadParameter, param: click.Parameter) -> UsageError:
    name, kind = _given_as(error, param), param.type
    several = isinstance(kind, Several)
    allowed = _allowed(kind)
    refused = _REFUSED.match(error.message)
    if not allowed or refused is None:
        return UsageError(f"{name}: {_sentence(error.message)}", hint=_see_help(error.ctx))
    value = refused["value"]
    hint = f"give {allowed}{'; several are separated by commas' if several else ''}"
    choices = _choices(kind)
    if close := closest(value.strip("'\"").lower(), choices):
        hint = f"did you mean {close}?"
    elif choices:
        hint = _see_help(error.ctx)
    return UsageError(f"{name} {value} is not {allowed}", hint=hint)


def _given_as(error: click.BadParameter, param: click.Parameter) -> str:
    """The option, variable or key that a value was given with."""
    name = param.opts[0] if param.param_type_name == "option" else param.human_readable_name
    source = error.ctx.get_parameter_source(param.name) if error.ctx and param.name else None
    if source is ParameterSource.ENVIRONMENT and isinstance(param.envvar, str):
        return f"{param.envvar} ({name})"
    return f"{name} in a file" if source is ParameterSource.DEFAULT_MAP else name


def _allowed(kind: click.ParamType[object]) -> str:
    """What a type takes, in words; "" for what cannot be said in a few."""
    kind = kind.kind if isinstance(kind, Several) else kind
    if choices := _choices(kind):
        return f"one of {', '.join(choices)}"
    words = {"integer range": "a whole number", "float range": "a number"}.get(kind.name, "")
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return words
    if kind.max is None:
        return f"{words} of at least {kind.min}"
    return f"{words} from {kind.min} to {kind.max}"


def _choices(kind: click.ParamType[object]) -> list[str]:
    kind = kind.kind if isinstance(kind, Several) else kind
    return [str(one) for one in kind.choices] if isinstance(kind, click.Choice) else []


def _value_words(message: str) -> str:
    """What click says of an option that lacks a value, or has one too many."""
    return "takes no value" if "does not take" in message else "needs a value"


def _sentence(message: str) -> str:
    """As a part of ours: without a capital and a full stop."""
    message = message.rstrip(".")
    return message[:1].lower() + message[1:]


def _command(ctx: click.Context | None) -> str:
    return ctx.command_path if ctx else "bei-jobs"


def _commands(ctx: click.Context | None) -> list[str]:
    group = ctx.command if ctx else None
    return group.list_commands(ctx) if ctx and isinstance(group, click.Group) else []


def _form(ctx: click.Context | None) -> str:
    """How a command is typed."""
    if ctx is None:
        return "see `bei-jobs --help`"
    words = " ".join(ctx.command.collect_usage_pieces(ctx))
    return f"the form is: {ctx.command_path} {words}"


def _see_help(ctx: click.Context | None) -> str:
    return f"see `{_command(ctx)} --help`"
