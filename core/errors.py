"""Every error that LMDyno shows to a person.

LMDynoError(message, hint, code)
├─ ConfigError              a setting, lanes.toml or the secrets are wrong
├─ AccessDenied             who acts may not do that
├─ InputError               a prompt, an image or an option that can't be used
├─ EngineError              an engine or endpoint could not do its part
│  ├─ EngineNotInstalled    the packages that the engine needs are missing
│  ├─ EngineLoadFailed      it started and gave up before it was healthy
│  ├─ EngineOutOfMemory     weights, KV cache or a request did not fit
│  ├─ EngineBusy            it is in use, or the device is
│  ├─ EngineTimeout         no connection, no first token, or a stream that stalled
│  ├─ EngineCrashed         it died or broke off an answer
│  └─ WrongBackend          it runs on another backend than the lane is named after
├─ ModelError               a model folder could not be made or is not what it should be
├─ TelemetryUnavailable     no driver or no such sensor; shown as "–", never as an alarm
└─ StoreError               the database can't be read or written

The message says what happened, the hint what to do next. Both are English; made with `core.i18n.N_`, they are
drawn in the reader's language by `_(error.message)`. The code is a stable kebab-case word without user text,
fit for exit reports and counting. A cancelled request is a finish reason, not an error.
"""

from typing import ClassVar


class LMDynoError(Exception):
    """Base of all errors meant for people; `code` defaults to the class's own."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.code))


def _rebuild(kind: type[LMDynoError], message: str, hint: str, code: str) -> LMDynoError:
    return kind(message, hint=hint, code=code)


class ConfigError(LMDynoError):
    default_code = "config"


class AccessDenied(LMDynoError):
    default_code = "access-denied"


class InputError(LMDynoError):
    default_code = "input"


class EngineError(LMDynoError):
    default_code = "engine"


class EngineNotInstalled(EngineError):
    default_code = "engine-not-installed"


class EngineLoadFailed(EngineError):
    default_code = "engine-load-failed"


class EngineOutOfMemory(EngineError):
    default_code = "engine-out-of-memory"


class EngineBusy(EngineError):
    default_code = "engine-busy"


class EngineTimeout(EngineError):
    default_code = "engine-timeout"


class EngineCrashed(EngineError):
    default_code = "engine-crashed"


class WrongBackend(EngineError):
    default_code = "wrong-backend"


class ModelError(LMDynoError):
    default_code = "model"


class TelemetryUnavailable(LMDynoError):
    default_code = "telemetry-unavailable"


class StoreError(LMDynoError):
    default_code = "store"
