"""Secrets out of what we say: by the name that they go under, by their shape, and by what this process was given.

Three questions, three answers. A value whose name is a secret's (``HF_TOKEN``, ``db_password``) is masked wherever we
show names with values, and from then on wherever it turns up in a text of ours. Words that look like a credential
(AWS keys, ``hf_...``, tokens in three parts, private keys, ``user:password@``) are masked without being told. And
``name=value`` inside a text is masked by its name. The ranks' own lines pass through the relay as they are.

Regular expressions cost 5 ms to import: a text is searched for cheap marks first, and most lines have none.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping, Sequence

MASK = "[redacted]"

LEAST_LEARNT_CHARS = 6
"""A shorter secret is masked beside its name only: searching texts for ``on`` or ``1234`` would garble them."""

_SURE = frozenset(
    [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "credential",
        "credentials",
        "apikey",
        "authtoken",
        "accesskey",
        "privatekey",
    ]
)
"""Words of which one in a name is enough."""
_OF_KEYS = frozenset(
    [
        "access",
        "account",
        "api",
        "app",
        "auth",
        "encryption",
        "license",
        "master",
        "private",
        "secret",
        "shared",
        "signing",
        "ssh",
    ]
)
"""What stands before ``key`` when that is no column, no sort key and no dictionary's."""
_NO_TOKENS = frozenset(
    [
        "bos",
        "cls",
        "eos",
        "eot",
        "image",
        "im",
        "mask",
        "max",
        "min",
        "new",
        "next",
        "num",
        "pad",
        "per",
        "prefix",
        "sep",
        "special",
        "start",
        "stop",
        "end",
        "text",
        "unk",
    ]
)
"""What stands before ``token`` when that is a piece of text."""
_HARMLESS_ENDS = frozenset(
    [
        "arn",
        "column",
        "count",
        "dir",
        "expiry",
        "file",
        "len",
        "length",
        "limit",
        "name",
        "names",
        "path",
        "size",
        "ttl",
        "type",
        "uri",
        "url",
    ]
)
"""A name that ends so tells where a secret is, not what it is."""


_NAME_PIECES = ("key", "token", "pass", "secret", "cred", "pwd", "auth", "cookie", "signature")
"""Without one of them no name is a secret's."""


class _Learnt:
    """Secrets that this process was given, longest first, and whether they were searched for."""

    values: tuple[str, ...] = ()


def words_of(name: str) -> list[str]:
    """Split a name at case, dashes, dots and underscores.

    >>> words_of("WANDB_API_KEY"), words_of("dbPassword"), words_of("hf-token.read")
    (['wandb', 'api', 'key'], ['db', 'password'], ['hf', 'token', 'read'])
    """
    words: list[str] = []
    word = ""
    before = ""
    for sign in name:
        if not sign.isalnum() or (sign.isupper() and before.islower()):
            words.append(word)
            word = ""
        if sign.isalnum():
            word += sign
        before = sign
    return [word.lower() for word in [*words, word] if word]


def is_secret_name(name: str) -> bool:
    """Tell whether a value under this name is to be hidden.

    >>> [name for name in ("hf_token", "pad_token", "max_tokens", "api_key", "key_column", "tokenizer") if \
    is_secret_name(name)]
    ['hf_token', 'api_key']
    """
    if not _may_name_secret(name):
        return False
    words = words_of(name)
    if not words or words[-1] in _HARMLESS_ENDS or name == "PWD":  # the shell's working directory
        return False
    for before, word in zip(["", *words], words, strict=False):
        if word in _SURE or "password" in word or (word in ("key", "keys") and before in _OF_KEYS):
            return True
        if word == "token" and before not in _NO_TOKENS and word == words[-1]:
            return True
        if word == "tokens" and before in ("access", "api", "auth", "refresh", "session"):
            return True
    return False


def is_secret(name: str, value: str) -> bool:
    """Tell whether a value is to be hidden, by its name; under a doubtful one (``key``, ``auth``) by its looks too."""
    if not _may_name_secret(name):
        return False
    if is_secret_name(name):
        return True
    words = words_of(name)
    return bool(words) and words[-1] in ("key", "auth", "token", "cookie", "signature") and looks_random(value)


def _may_name_secret(name: str) -> bool:
    low = name.lower()
    for piece in _NAME_PIECES:  # noqa: SIM110 - asked of every variable before the first rank starts
        if piece in low:
            return True
    return False


def looks_random(word: str) -> bool:
    """Tell a word that a machine drew from one that a person wrote: long, mixed, and no path, number or identifier.

    >>> looks_random("wJalrXUtnFEMI7K3MDENG2bPxRfiCY"), looks_random("image_classification"), looks_random("s3://b/k9")
    (True, False, False)
    """
    if any(sign.isspace() or sign in "<>(){}[]:" for sign in word):
        return False
    for sign in "/._-":
        word = word.replace(sign, " ")
    piece = max(word.split(), key=len, default="")
    kinds = [any(map(test, piece)) for test in (str.isdigit, str.islower, str.isupper)]
    # Of 16 signs drawn from 36 or more, at least 9 differ, nearly always.
    return len(piece) >= 16 and kinds[0] and sum(kinds) >= 2 and len(set(piece)) >= 9


def _says_password(name: str) -> bool:
    return any(word in _SURE or "password" in word for word in words_of(name))


def learn(named: Mapping[str, str]) -> None:
    """Remember the secrets among these values, so that `redact` finds them in any text.

    Args:
        named: environment or hyperparameters; a value may be JSON-encoded, or an object with secrets inside.
    """
    found = set(_Learnt.values)
    for name, value in named.items():
        _collect(name, value, found)
    _Learnt.values = tuple(sorted(found, key=len, reverse=True))


def _collect(name: str, value: str, found: set[str]) -> None:
    text = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if is_secret(name, text):
        found.update(part for part in (text, text.strip()) if _is_findable(part))
        if "\n" in text:  # one line of a private key must not show either
            found.update(line for line in text.splitlines() if len(line) >= 16)
        return
    if text[:1] in "{[" and _has_marks(text):
        from runtime.base.jsontext import loads

        try:
            _collect_inside(name, loads(text), found)
        except ValueError:
            return


def _collect_inside(name: str, value: object, found: set[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
            _collect_inside(str(key), item, found)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            _collect_inside(name, item, found)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, str):
        _collect(name, value, found)


def _is_findable(text: str) -> bool:
    if text.startswith("/") and not looks_random(text):  # where a secret lies; masking paths would garble every text
        return False
    return len(text) >= LEAST_LEARNT_CHARS and text.lower() not in {"default", "disabled", "enabled", "password"}


def forget() -> None:
    """Forget what was learnt."""
    _Learnt.values = ()


def redact(text: str) -> str:
    """Mask the secrets in a text of ours: what was learnt, what has a credential's shape, and ``name=value`` pairs.

    >>> redact("GET https://me:hunter22@host/x with api_key=abc123 failed")
    'GET https://[redacted]@host/x with api_key=[redacted] failed'
    """
    for value in _Learnt.values:
        if value in text:
            text = text.replace(value, MASK)
    return _shapes()(text) if _has_marks(text) else text


def redact_values(named: Mapping[str, str]) -> dict[str, str]:
    """Return names with values fit to be shown or stored: secret ones masked, texts redacted."""
    return {name: MASK if value and is_secret(name, value) else redact(value) for name, value in named.items()}


def redact_words(words: Sequence[str]) -> list[str]:
    """Return a command line fit to be shown: the value after ``--password`` or ``--password=`` is masked.

    >>> redact_words(["train.py", "--lr", "1", "--hf-token", "x1y2", "--api_key=z"])
    ['train.py', '--lr', '1', '--hf-token', '[redacted]', '--api_key=[redacted]']
    """
    shown: list[str] = []
    hides_next = False
    for word in words:
        name, equals, value = word.partition("=")
        option = word.startswith("-")
        if hides_next and not (option and is_secret_name(name.lstrip("-"))):
            shown.append(MASK)
        elif option and equals and is_secret(name.lstrip("-"), value):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(redact(word))
        hides_next = option and not equals and is_secret_name(name.lstrip("-"))
    return shown


_MARKS = [
    "iqoj",
    "fwog",
    "fqog",
    "akia",
    "asia",
    "abia",
    "acca",
    "aroa",
    "aida",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "hf_",
    "sk-",
    "pk-",
    "xox",
    "npm_",
    "pypi-",
    "eyj",
    "aiza",
    "dapi",
    "nvapi-",
    "private",
    "passw",
    "pwd",
    "secret",
    "token",
    "credential",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "accesskey",
    "access-key",
    "bearer",
    "basic",
    "authorization",
    "signature",
    "key=",
    "key:",
    'key"',
    "key'",
]
"""Lower-case pieces without which no shape can match."""


def _has_marks(text: str) -> bool:
    low = text.lower()
    return any(mark in low for mark in _MARKS) or ("://" in low and "@" in low)


class _Compiled:
    run: Callable[[str], str] | None = None


def _shapes() -> Callable[[str], str]:
    if _Compiled.run is None:
        _Compiled.run = _compile()
    return _Compiled.run


def _compile() -> Callable[[str], str]:
    import re

    begins = r"(?<![A-Za-z0-9_\-])"
    credentials = re.compile(
        "|".join(
            (
                # A private key in full, on one line or many, or cut off by a limit of ours.
                r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
                begins + r"(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}(?![A-Za-z0-9])",
                # Session tokens of AWS begin alike and go on for hundreds of signs.
                begins + r"(?:IQoJ|FwoG|FQoG)[A-Za-z0-9+/=]{40,}",
                begins + r"gh[pousr]_[A-Za-z0-9]{20,}",
                begins + r"github_pat_[A-Za-z0-9_]{20,}",
                begins + r"glpat-[A-Za-z0-9_\-]{16,}",
                begins + r"hf_[A-Za-z0-9]{16,}",
                begins + r"[sp]k-[A-Za-z0-9_\-]{16,}",
                begins + r"xox[abposr]-[A-Za-z0-9\-]{10,}",
                begins + r"npm_[A-Za-z0-9]{30,}",
                begins + r"pypi-[A-Za-z0-9_\-]{30,}",
                begins + r"dapi[a-f0-9]{30,}",
                begins + r"nvapi-[A-Za-z0-9_\-]{20,}",
                begins + r"AIza[A-Za-z0-9_\-]{30,}",
                begins + r"eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*",
            )
        ),
        re.DOTALL,
    )
    in_url = re.compile(r"(?<=://)[^\s/@:'\"]*(?::[^\s/'\"]*)?@(?=[A-Za-z0-9\[])")
    carried = re.compile(r"(?i)\b(bearer|basic)\s+([A-Za-z0-9._~+/=\-]{8,})")
    pair = re.compile(
        r"(?<![\w.\-])(?P<name>[A-Za-z\-_][\w.\-]*)(?P<between>[\"']?\s*(?:=>|:=|[=:])\s*)"
        r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;&\"'{}\[\]()]+)"
    )

    def mask_url(found: re.Match[str]) -> str:
        # A user alone (git@host) is no secret, a token as the user is.
        whole = found.group()[:-1]
        return f"{MASK}@" if ":" in whole or looks_random(whole) else found.group()

    def mask_carried(found: re.Match[str]) -> str:
        return f"{found.group(1)} {MASK}" if looks_random(found.group(2)) else found.group()

    def mask_pair(found: re.Match[str]) -> str:
        name, between, value = found.group("name", "between", "value")
        quote = value[0] if value[0] in "\"'" else ""
        inner = value.strip(quote) if quote else value
        # "token: 'else' is unexpected" is a sentence; "token=x" and {"token": "x"} are not.
        told = "=" in between or between[0] in "\"'" or _says_password(name) or any(map(str.isdigit, inner))
        if inner and inner != MASK and MASK not in inner and is_secret(name, inner) and told:
            return f"{name}{between}{quote}{MASK}{quote}"
        return found.group()

    def run(text: str) -> str:
        text = credentials.sub(MASK, text)
        text = in_url.sub(mask_url, text)
        text = carried.sub(mask_carried, text)
        return pair.sub(mask_pair, text)

    return run
