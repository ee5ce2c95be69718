"""Every exception of the package, each saying four things: asked, found, rule, remedy.

    LesionError
    ├── InvalidChoice (ValueError)          a fraction, site, selection, … that means nothing
    ├── UnknownLayer (IndexError)           a block or neuron that the model does not have
    ├── PromptError (ValueError)            empty, or longer than the model's context
    ├── PromptSetError (ValueError)         not to be read, or with too many bad rows
    ├── TargetError (ValueError)            not one token, or not the one that was meant
    ├── ModelError
    │   ├── UnknownFamily (LookupError)     nobody has said where this architecture keeps its MLP
    │   ├── UnsuitableFamily (LookupError)  an architecture that cannot be lesioned
    │   ├── UnsafeWeights (ValueError)      a checkpoint without safetensors
    │   └── ModelNotFound (OSError)         neither a folder, nor in the cache, nor reachable
    ├── LesionNotApplied (RuntimeError)     the model ran, but the lesion left no trace in it
    ├── EngineError
    │   ├── EngineRefused (ValueError)      an engine cannot take this model or this lesion
    │   ├── ModelInUse (RuntimeError)       the model carries the hooks of another call
    │   ├── SelfCheckFailed (RuntimeError)  the packed engine and the reference engine disagree
    │   ├── OutOfMemory (MemoryError)       not even one lesion at a time fits
    │   └── DeviceLost (RuntimeError)       the GPU is gone, or its state is
    └── RunError
        ├── RunExists (FileExistsError)     something stands where the run is to be written
        ├── RunNotWritable (OSError)        a place that cannot be written, or a full disk
        ├── RunInUse (RuntimeError)         another process writes the run
        ├── RunDiffers (ValueError)         the run that stands there is another than the one asked
        ├── UnitFailed (RuntimeError)       a unit of work failed as often as it may
        ├── RunNotFound (FileNotFoundError) no run where one is to be read
        ├── RunUnreachable (ConnectionError) an object store that refuses or does not answer
        └── RunDamaged (ValueError)         a shard that is not what was written
            └── BadShard                    bytes that do not prove themselves to be a shard

The command prints any of them without a traceback and exits with 2.
"""


class LesionError(Exception):
    """Base of every error that a caller can mend; its text is `asked: found. rule. remedy.`"""

    def __new__(cls, *_: str) -> "LesionError":
        # OSError would take the parts for an error number and a file name, and MemoryError makes
        # nothing that is another exception as well.
        return (OSError if issubclass(cls, OSError) else Exception).__new__(cls)

    def __init__(self, asked: str, found: str, rule: str, remedy: str) -> None:
        super().__init__(asked, found, rule, remedy)
        self.asked, self.found, self.rule, self.remedy = asked, found, rule, remedy
        self.args = (asked, found, rule, remedy)

    def __str__(self) -> str:
        return f"{self.asked}: {self.found}. {self.rule}. {self.remedy}."


class InvalidChoice(LesionError, ValueError):
    """A word or number that is outside what the choice allows."""


class UnknownLayer(LesionError, IndexError):
    """A block, or a neuron of a block, that the model does not have."""


class PromptError(LesionError, ValueError):
    """A prompt that cannot be run: empty, or longer than the context."""


class PromptSetError(LesionError, ValueError):
    """A prompt set that cannot be read, or with too many bad rows."""


class TargetError(LesionError, ValueError):
    """A target or foil that is not one unmistakable token."""


class ModelError(LesionError):
    """A model that cannot be loaded, or not safely."""


class UnknownFamily(ModelError, LookupError):
    """An architecture without an entry in `lesion.models.families`."""


class UnsuitableFamily(ModelError, LookupError):
    """An architecture, or a form of one, that is known and cannot be lesioned."""


class UnsafeWeights(ModelError, ValueError):
    """A checkpoint whose weights are not stored as safetensors."""


class ModelNotFound(ModelError, OSError):
    """A name that is neither a folder here, nor in the cache, nor reachable."""


class LesionNotApplied(LesionError, RuntimeError):
    """The forward pass ended without the lesion having changed anything."""


class EngineError(LesionError):
    """An engine that cannot measure, or not rightly."""


class EngineRefused(EngineError, ValueError):
    """A model or lesion that an engine has not been proved for."""


class ModelInUse(EngineError, RuntimeError):
    """A model that carries the lesion hooks of another call."""


class SelfCheckFailed(EngineError, RuntimeError):
    """The packed engine and the reference engine differ beyond the tolerance."""


class OutOfMemory(EngineError, MemoryError):
    """Not even one lesion at a time fits into memory."""


class DeviceLost(EngineError, RuntimeError):
    """The device that the model is on does not answer any more; the command exits with 4."""


class RunError(LesionError):
    """A run that cannot be read or written."""


class RunExists(RunError, FileExistsError):
    """Something already stands where a run is to be written."""


class RunNotWritable(RunError, OSError):
    """A run cannot be written there: no right to, a read-only or a full disk."""


class RunInUse(RunError, RuntimeError):
    """Another process writes the run."""


class RunDiffers(RunError, ValueError):
    """The run that stands there was begun with another plan, model, prompt set or version."""


class UnitFailed(RunError, RuntimeError):
    """A unit of work whose workers died, as often as it may be tried."""


class RunNotFound(RunError, FileNotFoundError):
    """No run stands where one is to be read."""


class RunUnreachable(RunError, ConnectionError):
    """The object store of a run refuses or does not answer; whether a run is there is not known."""


class RunDamaged(RunError, ValueError):
    """A shard of a run is not the one that was written."""


class BadShard(RunDamaged):
    """Bytes that are no shard, or not as they were written."""
