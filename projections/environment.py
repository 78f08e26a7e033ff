"""Reading settings from the environment: one way for all of them, with errors that name the variable.

Not here: what is set (each settings class says it).
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from store.errors import InvalidValue

SomeSettings = TypeVar("SomeSettings", bound=BaseSettings)

VALUE_SHOWN_SIZE_MAX = 60


def read_environment(settings_class: type[SomeSettings], **values: Any) -> SomeSettings:
    """Return the settings of this process's environment, `values` going before it.

    Raises InvalidValue, which names the variable and its value; where the class hides what it is given
    (`hide_input_in_errors`), as one that holds secrets does, the value is left out.
    """
    try:
        return settings_class(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = "_".join(str(part) for part in first["loc"]) or "settings"
        from_environment = field not in values and field in settings_class.model_fields
        prefix = settings_class.model_config.get("env_prefix", "")
        name = f"{prefix}{field}".upper() if from_environment else field
        hidden = settings_class.model_config.get("hide_input_in_errors", False)
        value = "(not shown)" if hidden else repr(first["input"])[:VALUE_SHOWN_SIZE_MAX]
        raise InvalidValue(name, value, first["msg"]) from (None if hidden else error)
