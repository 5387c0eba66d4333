"""The JavaScript engine, called through its own C interface: one `Engine` is one runtime with one context.

The library is the one inside the wheel of `quickjs-ng`; of the wheel's Python binding nothing is used, since it has no module loader,
cannot call back under a time limit, and cuts strings at a zero byte (docs/adr/0011). What this module declares holds for the version that
it names, and for a 64-bit build; a wrong declaration would be memory corruption, though in a process that holds nothing.
Law: runs in script workers only, never in the enclave's own process; an exception of Python's never passes through the engine.
Not here: what scripts see (`prelude.js`), what they are run for (`enclave.runtime.script_worker`).
"""

import ctypes
import json
import time
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, byref, c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any, Final

import _quickjs

VERSION: Final = b"0.17.0"  # of the engine whose interface is declared below
TEXT_BYTES_MAX: Final = 16 << 10  # of an exception's text and of its trace, each
PART_BYTES: Final = 64 << 10  # of `Engine.shared`: requests through the door, what a run is given, what it writes; see `prelude.js`
GIVEN, WRITTEN = PART_BYTES, 2 * PART_BYTES
_SHARED_BYTES: Final = 3 * PART_BYTES

_TAG_STRING, _TAG_STRING_ROPE, _TAG_OBJECT, _TAG_BOOL, _TAG_NULL, _TAG_UNDEFINED, _TAG_EXCEPTION = -7, -6, -1, 1, 2, 3, 6
_EVAL_MODULE, _EVAL_STRICT, _EVAL_COMPILE_ONLY = 1 << 0, 1 << 3, 1 << 5
_BYTECODE: Final = 1
ARGUMENTS_MAX: Final = 16  # of a call
_STRIPPED: Final = 1 << 4 | 1 << 5  # of its source, and of the places of its parts
_CFUNC_F_F: Final = 6
_PENDING, _FULFILLED = 0, 1
_ORDINARY: Final = 7  # of a property: can be configured, written, enumerated


class Value(ctypes.Structure):
    """A `JSValue` of a 64-bit build: 8 bytes of number or pointer, and a tag."""

    _fields_ = [("bits", c_int64), ("tag", c_int64)]


UNDEFINED: Final = Value(0, _TAG_UNDEFINED)
NULL: Final = Value(0, _TAG_NULL)


class EngineError(Exception):
    """The engine gives nothing: no memory for a context, or not the library that is declared here."""


class ScriptError(Exception):
    """A script threw.

    Attributes:
        text: What it threw, as text; None for an exception without one, as the engine's own when there is no memory left to say so.
        trace: Where, if it threw an Error.
    """

    def __init__(self, text: str | None, trace: str) -> None:
        super().__init__(text)
        self.text = text
        self.trace = trace


_library: Final = ctypes.PyDLL(_quickjs.__file__)  # keeps the interpreter's lock: a worker has one thread


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_library, name)
    function.restype = result
    function.argtypes = arguments
    return function


_Interrupt: Final = CFUNCTYPE(c_int, c_void_p, c_void_p)
_Normalize: Final = CFUNCTYPE(c_void_p, c_void_p, c_char_p, c_char_p, c_void_p)
_Load: Final = CFUNCTYPE(c_void_p, c_void_p, c_char_p, c_void_p)
_Door: Final = CFUNCTYPE(c_double, c_double)

_get_version = _declare("JS_GetVersion", c_char_p)
_new_runtime = _declare("JS_NewRuntime", c_void_p)
_free_runtime = _declare("JS_FreeRuntime", None, c_void_p)
_new_context = _declare("JS_NewContext", c_void_p, c_void_p)
_free_context = _declare("JS_FreeContext", None, c_void_p)
_set_memory_limit = _declare("JS_SetMemoryLimit", None, c_void_p, c_size_t)
_set_stack_size = _declare("JS_SetMaxStackSize", None, c_void_p, c_size_t)
_update_stack_top = _declare("JS_UpdateStackTop", None, c_void_p)
_set_interrupt = _declare("JS_SetInterruptHandler", None, c_void_p, _Interrupt, c_void_p)
_set_loader = _declare("JS_SetModuleLoaderFunc", None, c_void_p, _Normalize, _Load, c_void_p)
_eval = _declare("JS_Eval", Value, c_void_p, c_char_p, c_size_t, c_char_p, c_int)
_eval_function = _declare("JS_EvalFunction", Value, c_void_p, Value)
_call = _declare("JS_Call", Value, c_void_p, Value, Value, c_int, POINTER(Value))
_free = _declare("JS_FreeValue", None, c_void_p, Value)
_get_exception = _declare("JS_GetException", Value, c_void_p)
_is_error = _declare("JS_IsError", c_bool, Value)
_is_function = _declare("JS_IsFunction", c_bool, c_void_p, Value)
_is_promise = _declare("JS_IsPromise", c_bool, Value)
_promise_state = _declare("JS_PromiseState", c_int, c_void_p, Value)
_promise_result = _declare("JS_PromiseResult", Value, c_void_p, Value)
_is_job_pending = _declare("JS_IsJobPending", c_bool, c_void_p)
_execute_pending_job = _declare("JS_ExecutePendingJob", c_int, c_void_p, POINTER(c_void_p))
_to_text = _declare("JS_ToCStringLen2", c_void_p, c_void_p, POINTER(c_size_t), Value, c_bool)
_free_text = _declare("JS_FreeCString", None, c_void_p, c_void_p)
_stringify = _declare("JS_JSONStringify", Value, c_void_p, Value, Value, Value)
_parse_json = _declare("JS_ParseJSON", Value, c_void_p, c_char_p, c_size_t, c_char_p)
_new_text = _declare("JS_NewStringLen", Value, c_void_p, c_char_p, c_size_t)
_new_buffer = _declare("JS_NewArrayBufferCopy", Value, c_void_p, c_char_p, c_size_t)
_new_shared = _declare("JS_NewArrayBuffer", Value, c_void_p, c_void_p, c_size_t, c_size_t, c_void_p, c_void_p, c_bool)
_get_buffer = _declare("JS_GetArrayBuffer", c_void_p, c_void_p, POINTER(c_size_t), Value)
_get_named = _declare("JS_GetPropertyStr", Value, c_void_p, Value, c_char_p)
_get_indexed = _declare("JS_GetPropertyUint32", Value, c_void_p, Value, c_uint32)
_set_indexed = _declare("JS_SetPropertyUint32", c_int, c_void_p, Value, c_uint32, Value)
_get_global = _declare("JS_GetGlobalObject", Value, c_void_p)
_load_module = _declare("JS_LoadModule", Value, c_void_p, c_char_p, c_char_p)
_new_object = _declare("JS_NewObject", Value, c_void_p)
_define_named = _declare("JS_DefinePropertyValueStr", c_int, c_void_p, Value, c_char_p, Value, c_int)
_new_array = _declare("JS_NewArray", Value, c_void_p)
_new_function = _declare("JS_NewCFunction2", Value, c_void_p, c_void_p, c_char_p, c_int, c_int, c_int)
_copy_text = _declare("js_strndup", c_void_p, c_void_p, c_char_p, c_size_t)
_write_object = _declare("JS_WriteObject", c_void_p, c_void_p, POINTER(c_size_t), Value, c_int)
_read_object = _declare("JS_ReadObject", Value, c_void_p, c_char_p, c_size_t, c_int)
_js_free = _declare("js_free", None, c_void_p, c_void_p)
_throw = _declare("JS_Throw", Value, c_void_p, Value)
_throw_reference_error = _declare("JS_ThrowReferenceError", Value, c_void_p, c_char_p, c_char_p)

if _get_version() != VERSION:  # pragma: no cover - the wheel is locked by its hash
    raise EngineError(f"the engine is {_get_version()!r}; its interface is declared here for {VERSION!r}")

Door = Callable[[int], float]
"""What a script's request goes through: given how many bytes of `Engine.shared` are for it (see `prelude.js`), gives its number."""


class Engine:
    """One runtime and one context, empty but for what the language brings.

    Args:
        heap_bytes: Beyond it, allocations fail: an exception "out of memory", or one without a text.
        stack_bytes: Of the engine's calls; beyond it a RangeError.
        resolve: The canonical name of a module, from the name that is used and the name of who imports.
        load: A module's source, by canonical name; None where there is none.
        door: The way out.

    Attributes:
        shared: The memory that this program and `prelude.js` both write to.
        deadline: When the script is stopped, monotonic seconds; may be moved at any time, to 0 to stop it now.
        interrupted: It was.
        door: The way out; may be changed between runs.
        look: Told the time now and then while a script runs.
    Raises: EngineError: There is no memory for it.
    """

    def __init__(
        self, heap_bytes: int, stack_bytes: int, resolve: Callable[[str, str], str], load: Callable[[str], str | None], door: Door
    ) -> None:
        self.deadline = float("inf")
        self.interrupted = False
        self.look: Callable[[float], None] = lambda now: None
        self.shared = _VIEW
        ctypes.memset(_SHARED, 0, _SHARED_BYTES)  # nothing of another script's
        self._runtime = _new_runtime()
        if not self._runtime:
            raise EngineError("no memory for a runtime")
        _set_memory_limit(self._runtime, heap_bytes)
        _set_stack_size(self._runtime, stack_bytes)
        self._context = _new_context(self._runtime)
        if not self._context:
            _free_runtime(self._runtime)
            raise EngineError("no memory for a context")
        self._resolve, self._load, self.door = resolve, load, door
        self._enter()
        _set_interrupt(self._runtime, _INTERRUPT, None)
        _set_loader(self._runtime, _NORMALIZE, _LOAD, None)
        self._holder = _new_array(self._context)
        _set_indexed(self._context, self._holder, 0, UNDEFINED)

    def close(self) -> None:
        """Give everything back; values of this engine are void from then on."""
        _free(self._context, self._holder)
        _free_context(self._context)
        _free_runtime(self._runtime)

    def resume(self) -> None:
        """Be the one that runs again: another engine was used from within a call of this one's."""
        global _running  # noqa: PLW0603 - as below
        _running = self

    def _enter(self) -> None:
        global _running  # noqa: PLW0603 - what the engine calls are functions without an object
        _running = self
        _update_stack_top(self._runtime)

    # What the engine calls. Nothing may be raised out of these.

    def _on_interrupt(self) -> int:
        now = time.monotonic()
        try:
            self.look(now)
        except OSError:
            self.deadline = 0.0  # the enclave is gone, and nobody waits for what comes of this
        if now < self.deadline:
            return 0
        self.interrupted = True
        return 1

    def _on_resolve(self, context: int, base: bytes, name: bytes) -> int | None:
        try:
            data = self._resolve(name.decode(errors="replace"), base.decode(errors="replace")).encode()
        except ValueError:
            data = name
        copy: int | None = _copy_text(context, data, len(data))
        return copy

    def _on_load(self, context: int, name: bytes) -> int | None:
        source = self._load(name.decode(errors="replace"))
        if source is None:
            _throw_reference_error(context, b"could not load module '%s'", name[:256])
            return None
        data = source.encode(errors="replace")
        module = _eval(context, data, len(data), name, _EVAL_MODULE | _EVAL_COMPILE_ONLY)
        if module.tag == _TAG_EXCEPTION:
            return None
        _free(context, module)  # the context itself keeps its modules
        address: int = module.bits
        return address

    def _on_door(self, number: float) -> float:
        return self.door(int(number))

    # Values. Every one that is given belongs to the caller, who gives it back by `free`.

    def free(self, *values: Value) -> None:
        """Give values back."""
        for value in values:
            _free(self._context, value)

    def _checked(self, value: Value) -> Value:
        if value.tag == _TAG_EXCEPTION:
            raise self._exception()
        return value

    def _exception(self) -> ScriptError:
        """What was thrown. Reading it may run the script's own code, and fail in turn."""
        thrown = _get_exception(self._context)
        text = trace = None
        try:
            is_error = _is_error(thrown)
            if thrown.tag == _TAG_OBJECT and not is_error:
                shown = _stringify(self._context, thrown, NULL, NULL)
                text = self._text_or_none(shown)
                self.free(shown)
            elif thrown.tag != _TAG_NULL:
                text = self._text_or_none(thrown)
            if text is None and thrown.tag != _TAG_NULL:
                text = "what was thrown has no text"
            if is_error:
                stack = _get_named(self._context, thrown, b"stack")
                trace = self._text_or_none(stack) if stack.tag in (_TAG_STRING, _TAG_STRING_ROPE) else None
                self.free(stack)
        finally:
            self.free(thrown)
        return ScriptError(text, trace or "")

    def _text_or_none(self, value: Value) -> str | None:
        """A value's text, cut; None where there is none, or no memory for it."""
        if value.tag == _TAG_EXCEPTION:
            self.free(_get_exception(self._context))
            return None
        length = c_size_t()
        address = _to_text(self._context, byref(length), value, False)
        if not address:
            self.free(_get_exception(self._context))
            return None
        text = ctypes.string_at(address, min(length.value, TEXT_BYTES_MAX)).decode(errors="replace")
        _free_text(self._context, address)
        return text

    def is_undefined(self, value: Value) -> bool:
        """Whether there is none."""
        return bool(value.tag == _TAG_UNDEFINED)

    def is_text(self, value: Value) -> bool:
        """Whether it is a string."""
        return bool(value.tag in (_TAG_STRING, _TAG_STRING_ROPE))

    def read(self, value: Value, limit: int | None = None) -> bytes:
        """The bytes of an ArrayBuffer, or of a string in UTF-8 (a surrogate without its other half as its three bytes).

        Raises:
            ScriptError: It is something else, or memory is out.
            OverflowError: There are more than `limit`.
        """
        length = c_size_t()
        if value.tag == _TAG_OBJECT:
            address = _get_buffer(self._context, byref(length), value)
            if not address:
                raise self._exception()
            if limit is not None and length.value > limit:
                raise OverflowError
            return ctypes.string_at(address, length.value)
        address = _to_text(self._context, byref(length), value, False)
        if not address:
            raise self._exception()
        try:
            if limit is not None and length.value > limit:
                raise OverflowError
            return ctypes.string_at(address, length.value)
        finally:
            _free_text(self._context, address)

    def new_text(self, data: bytes) -> Value:
        """A string of UTF-8."""
        return self._checked(_new_text(self._context, data, len(data)))

    def new_buffer(self, data: bytes) -> Value:
        """An ArrayBuffer."""
        return self._checked(_new_buffer(self._context, data, len(data)))

    def new_json(self, data: bytes) -> Value:
        """The value of JSON text."""
        return self._checked(_parse_json(self._context, data, len(data), b"<json>"))

    def new_array(self, values: Sequence[Value]) -> Value:
        """An array; takes the values over."""
        array = self._checked(_new_array(self._context))
        for index, value in enumerate(values):
            _set_indexed(self._context, array, index, value)
        return array

    def new(self, value: Any) -> Value:
        """A value as JSON has them; in a dict, and by itself, bytes too, as ArrayBuffers."""
        if type(value) is bytes:
            return self.new_buffer(value)
        if type(value) is str:
            return self.new_text(value.encode(errors="replace"))
        if type(value) is dict and any(type(part) in (bytes, dict) for part in value.values()):
            made = self._checked(_new_object(self._context))
            for name, part in value.items():
                # Defined, not assigned: no setter that a script has put onto all objects is called.
                _define_named(self._context, made, name.encode(), self.new(part), _ORDINARY)
            return made
        return self.new_json(json.dumps(value).encode())

    def item(self, array: Value, index: int) -> Value:
        """An element."""
        return self._checked(_get_indexed(self._context, array, index))

    def held(self) -> Value:
        """What the prelude holds out."""
        return self.item(self._holder, 0)

    def hold(self, value: Value) -> None:
        """Hold a value out to the prelude; taken over."""
        _set_indexed(self._context, self._holder, 0, value)

    # Running.

    def start(self, prelude: bytes, configuration: bytes) -> tuple[Value, ...]:
        """Run the prelude, a function as bytecode (see `compile`), and give the functions that it gives.

        Raises: ScriptError: There is no memory for it.
        """
        self._enter()
        context = self._context
        shared = self._checked(_new_shared(context, ctypes.addressof(_SHARED), _SHARED_BYTES, 0, None, None, False))
        door = self._checked(_new_function(context, ctypes.cast(_DOOR, c_void_p), b"door", 1, _CFUNC_F_F, 0))
        function = self._checked(_eval_function(context, self._checked(_read_object(context, prelude, len(prelude), _BYTECODE))))
        settings = self.new_json(configuration)
        given = (Value * 4)(door, shared, self._holder, settings)
        try:
            made = self._checked(_call(context, function, UNDEFINED, 4, given))
        finally:
            self.free(function, door, shared, settings)
        functions = tuple(self.item(made, index) for index in range(4))
        self.free(made)
        return functions

    def compile(self, source: bytes) -> bytes:
        """Bytecode of a script, for another engine of this process. Raises: ScriptError: It is not well-formed."""
        code = self._checked(_eval(self._context, source, len(source), b"<prelude>", _EVAL_COMPILE_ONLY | _EVAL_STRICT))
        length = c_size_t()
        address = _write_object(self._context, byref(length), code, _BYTECODE | _STRIPPED)
        self.free(code)
        if not address:
            raise self._exception()
        data = ctypes.string_at(address, length.value)
        _js_free(self._context, address)
        return data

    def compile_module(self, module: str, source: str) -> None:
        """Compile a module and, through the loader, all that it imports by name; run nothing.

        Raises: ScriptError: One is not well-formed, or is not there.
        """
        self._enter()
        data = source.encode(errors="replace")
        path = module.encode(errors="replace")
        self.free(self._checked(_eval(self._context, data, len(data), path, _EVAL_MODULE | _EVAL_COMPILE_ONLY)))

    def function(self, module: str, source: str, name: str, *, is_script: bool) -> Value | None:
        """Load a module, or run a plain script, and find its function: exported, or else global. None if there is none of that name.

        Raises: ScriptError: It does not compile, imports what is not there, or throws.
        """
        self._enter()
        context = self._context
        data, path = source.encode(errors="replace"), module.encode(errors="replace")
        if is_script:
            self.free(self._checked(_eval(context, data, len(data), path, 0)))
        else:
            # Through the loader, like every import: so it is the same module for those that import it.
            exports = self._settled(self._checked(_load_module(context, b"/", path)))
            found = self._checked(_get_named(context, exports, name.encode()))
            self.free(exports)
            if _is_function(context, found):
                return found
            self.free(found)
        scope = _get_global(context)
        found = self._checked(_get_named(context, scope, name.encode()))
        self.free(scope)
        if not _is_function(context, found) and found.tag == _TAG_UNDEFINED and is_script:
            # `const f = ...` at the top of a script is no property of the global object
            look = b"typeof %s === 'function' ? %s : undefined" % (name.encode(), name.encode())
            found = self._checked(_eval(context, look, len(look), b"<look>", 0))
        if _is_function(context, found):
            return found
        self.free(found)
        return None

    def answer(self, function: Value, *arguments: Value) -> tuple[Value, bool]:
        """As `call`; and whether a promise was waited for."""
        self._enter()
        given = _LISTS[len(arguments)](*arguments)
        value = self._checked(_call(self._context, function, UNDEFINED, len(arguments), given))
        if value.tag != _TAG_OBJECT and not _is_job_pending(self._runtime):
            return value, False
        is_promise = bool(value.tag == _TAG_OBJECT and _is_promise(value))
        return self._settled(value), is_promise

    def call(self, function: Value, *arguments: Value) -> Value:
        """Call a function, and wait for the promise if it gives one; arguments are the caller's still.

        Raises: ScriptError: It throws, or the promise is rejected or never settles.
        """
        return self.answer(function, *arguments)[0]

    def _settled(self, value: Value) -> Value:
        """Run what was put off; then the value, or that of the promise that it is."""
        context = c_void_p()
        while (left := _execute_pending_job(self._runtime, byref(context))) > 0:
            pass
        if left < 0:
            self.free(value)
            raise self._exception()
        if not _is_promise(value):
            return value
        try:
            state = _promise_state(self._context, value)
            if state == _PENDING:
                raise ScriptError("Error: the promise that the function returned is never settled", "")
            result: Value = _promise_result(self._context, value)
        finally:
            self.free(value)
        if state != _FULFILLED:
            _throw(self._context, result)
            raise self._exception()
        return result


_running: Engine | None = None
_SHARED: Final = ctypes.create_string_buffer(_SHARED_BYTES)
_VIEW: Final = memoryview(_SHARED).cast("B")
_LISTS: Final = [Value * length for length in range(ARGUMENTS_MAX + 1)]  # types of arguments: to make one takes longer than a call


def _on_interrupt(runtime: int, opaque: int) -> int:
    return _running._on_interrupt() if _running is not None else 1


def _on_resolve(context: int, base: bytes, name: bytes, opaque: int) -> int | None:
    return _running._on_resolve(context, base, name) if _running is not None else None


def _on_load(context: int, name: bytes, opaque: int) -> int | None:
    return _running._on_load(context, name) if _running is not None else None


def _on_door(number: float) -> float:
    return _running._on_door(number) if _running is not None else 0.0


# Made once, when this module is loaded: each is a piece of machine code, and a worker may make none later. The engine has their addresses.
_INTERRUPT: Final = _Interrupt(_on_interrupt)
_NORMALIZE: Final = _Normalize(_on_resolve)
_LOAD: Final = _Load(_on_load)
_DOOR: Final = _Door(_on_door)
