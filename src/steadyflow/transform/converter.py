"""What a converter is, and which ones there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from steadyflow.conversion import ConversionOptions, ConversionStep
from steadyflow.data import Block
from steadyflow.errors import ConfigurationError, DuplicateName, TransformError, UnknownName
from steadyflow.formats import AnyFormat, AudioFormat, CarrierFormat, Format, checked_integer
from steadyflow.transform.conforming import Conforming


class Stage(Protocol):
    """
    A step at work. One thread at a time; may allocate; does not wait.

    What comes out has the format of the step's target; it carries the stamps of what went in, moved where the step moves them.
    """

    def push(self, block: Block) -> Sequence[Block]:
        """
        Take a block; return what that makes: none, one or several.

        Raises:
            TransformError: The block is not what the step takes.
        """
        ...

    def flush(self) -> Sequence[Block]:
        """Return what is left, at the end of a stream; after that a new one may begin."""
        ...


class Converter(Protocol):
    """
    Knows one kind of step.

    Attributes:
        name: What plans call it.
        starts: What it starts from, where others should lead there; what is open in it may be anything.
    """

    name: str
    starts: Sequence[Format]

    def offers(self, fmt: Format, goals: Sequence[Format], options: ConversionOptions) -> Iterable[ConversionStep]:
        """
        Return the steps that could be made from a format.

        Args:
            fmt: Where the chain has come to; nothing is left open in it.
            goals: What it is to come to, and on the way what other converters start from; nothing is left open.
            options: What the user has chosen.
        """
        ...

    def delay_frames(self, step: ConversionStep, options: ConversionOptions) -> int:
        """
        Return how many frames of its target a step withholds at most.

        Raises:
            MissingExtra: What it needs is not installed.
        """
        ...

    def stage(self, step: ConversionStep, options: ConversionOptions) -> Stage:
        """
        Set a step to work.

        Raises:
            MissingExtra: What it needs is not installed.
        """
        ...


def filled(pattern: Format, fmt: Format) -> Format | None:
    """
    Return a format whose open fields are taken from another; None where they are of different kinds.

    Args:
        pattern: What may be open.
        fmt: What fills it.
    """
    if isinstance(pattern, AnyFormat):
        return fmt
    if isinstance(pattern, CarrierFormat):
        audio = fmt.audio if isinstance(fmt, CarrierFormat) else fmt
        if not isinstance(audio, AudioFormat):
            return None
        if pattern.audio is None:
            return pattern.holding(audio)
        return msgspec.structs.replace(pattern, audio=pattern.audio.filled_from(audio))
    if isinstance(pattern, AudioFormat):
        audio = fmt.audio if isinstance(fmt, CarrierFormat) else fmt
        return pattern.filled_from(audio) if isinstance(audio, AudioFormat) else None
    return pattern


class FunctionConverter:
    """
    A converter that a user has registered: a function from the data of a block to the data of another.

    Args:
        name: What plans call it.
        function: Takes `Block.data`, returns what the new block carries.
        source: What it takes; what an `AudioFormat` leaves open may be anything.
        target: What it returns; what an `AudioFormat` leaves open is as it was.
        cost: ns of work for each second of a stream, as far as it is known.

    Raises:
        ConfigurationError: An argument is impossible.
    """

    def __init__(self, name: str, function: Callable[..., object], source: Format, target: Format, cost: int) -> None:
        for end, fmt in (("source", source), ("target", target)):
            if not isinstance(fmt, Format):
                raise ConfigurationError(f"register_function: expected {end} to be a format, got {fmt!r}.")
        if not callable(function):
            raise ConfigurationError(f"register_function: expected a function, got {function!r}.")
        self.name = name
        self.starts: Sequence[Format] = (source,)
        self.source = source
        self.target = target
        self.cost = checked_integer("register_function", "cost", cost, 1 << 40)
        self._function = function

    def offers(self, fmt: Format, _goals: Sequence[Format], _options: ConversionOptions) -> Iterator[ConversionStep]:
        """Return its one step where the format is what it takes."""
        source = filled(self.source, fmt)
        if source is not None and same_kind(source, fmt):
            target = filled(self.target, fmt)
            if target is None and self.target.is_resolved:
                target = self.target  # it needs nothing of what comes in, which is of another kind
            if target is not None and not same_kind(target, fmt):
                yield ConversionStep(
                    converter=self.name,
                    source=fmt,
                    target=target,
                    does=f"{fmt} -> {target}",
                    cost_class="compute",
                    cost=self.cost,
                )

    def delay_frames(self, _step: ConversionStep, _options: ConversionOptions) -> int:
        """Return 0: a function gives one block for each."""
        return 0

    def stage(self, step: ConversionStep, _options: ConversionOptions) -> Stage:
        """Set the function to work."""
        return _FunctionStage(self._function, step)


class _FunctionStage:
    def __init__(self, function: Callable[..., object], step: ConversionStep) -> None:
        self._function = function
        self._step = step
        self._conforming: Callable[[object], object] = lambda data: data
        self._rates: tuple[int, int] | None = None
        if isinstance(step.target, AudioFormat):
            self._conforming = Conforming(step.converter, step.target)
            if isinstance(step.source, AudioFormat):
                self._rates = (step.source.sample_rate_hz or 1, step.target.sample_rate_hz or 1)

    def push(self, block: Block) -> tuple[Block, ...]:
        try:
            data = self._function(block.data)
        except Exception as problem:
            raise TransformError(
                f"{self._step.converter}: expected {self._step.source} that it can convert; it raised "
                f"{type(problem).__qualname__}: {problem}"
            ) from problem
        made = block.derived(self._conforming(data), self._step.target)
        if self._rates is not None and self._rates[0] != self._rates[1]:
            made = Block(
                made.data,
                made.format,
                timestamp_ns=made.timestamp_ns,
                first_frame=made.first_frame * self._rates[1] // self._rates[0],
                sequence=made.sequence,
                flags=made.flags,
                metadata=made.metadata or None,
            )
        return (made,)

    def flush(self) -> tuple[Block, ...]:
        return ()


def same_kind(one: Format, other: Format) -> bool:
    """Tell whether two complete formats are the same but for the sizes that only an output decides."""
    if isinstance(one, AudioFormat) and isinstance(other, AudioFormat):
        return one.same_samples(other)
    if isinstance(one, CarrierFormat) and isinstance(other, CarrierFormat):
        same = (one.carrier, one.big_endian) == (other.carrier, other.big_endian)
        return same and one.held.same_samples(other.held)
    if type(one) is not type(other):
        return False
    return all(getattr(one, name) == getattr(other, name) for name in one.__struct_fields__ if name != "max_bytes")


class Converters:
    """
    Converters by name: those that come with the package, and those that a user has registered.

    Args:
        known: Those to begin with.
    """

    def __init__(self, known: Iterable[Converter] = ()) -> None:
        self._by_name: dict[str, Converter] = {converter.name: converter for converter in known}
        self._built_in = frozenset(self._by_name)

    def __iter__(self) -> Iterator[Converter]:
        return iter(self._by_name.values())

    def named(self, name: str) -> Converter:
        """
        Return a converter.

        Raises:
            UnknownName: There is none of that name.
        """
        if name not in self._by_name:
            raise UnknownName("converter", name, self._by_name)
        return self._by_name[name]

    def register(self, converter: Converter) -> None:
        """
        Add a converter.

        Raises:
            DuplicateName: There is one of that name.
            ConfigurationError: It is none.
        """
        missing = [
            name for name in ("name", "starts", "offers", "delay_frames", "stage") if not hasattr(converter, name)
        ]
        if missing:
            raise ConfigurationError(
                f"register: expected a converter, got {converter!r} without {', '.join(missing)}. A function is registered as "
                f"register_function(function, source, target)."
            )
        if converter.name in self._by_name:
            raise DuplicateName(f"register: expected a new name, got {converter.name!r}, which is another converter's.")
        self._by_name[converter.name] = converter

    def unregister(self, name: str) -> None:
        """
        Remove a converter that was registered.

        Raises:
            UnknownName: There is none of that name.
            ConfigurationError: It came with the package.
        """
        self.named(name)
        if name in self._built_in:
            raise ConfigurationError(
                f"unregister: expected a converter that was registered, got {name!r}, which is built in."
            )
        del self._by_name[name]
