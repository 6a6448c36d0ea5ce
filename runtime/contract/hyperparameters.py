r"""Hyperparameters as the job holds them: whose they are, and what their text means.

The file holds strings. The SDK's framework estimators JSON-encode every value (``"\"user.py\""``); boto3, the
console and tuning jobs send plain text. A string stays what it was: ``1234e5`` is a git hash until an argument of the
script says ``float`` (see `runtime.binding`).
"""

from __future__ import annotations

from runtime.base.jsontext import loads_or

RESERVED = ("_tuning_objective_metric", "default_user_module_name")
RESERVED_PREFIXES = ("sagemaker_", "slipway_")
"""Names that address the platform or us, never the user's function. Source: sagemaker-training 5.1.4, params.py."""


def is_reserved(name: str) -> bool:
    """Tell whether a hyperparameter is not for the user's code."""
    return name in RESERVED or name.startswith(RESERVED_PREFIXES)


def unquote(value: str) -> str:
    """Undo the JSON encoding of a string, and of a string only.

    >>> unquote('"1234e5"'), unquote("1234e5"), unquote('[1, "a"]')
    ('1234e5', '1234e5', '[1, "a"]')
    """
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        decoded = loads_or(value, None)
        return decoded if isinstance(decoded, str) else value
    return value
