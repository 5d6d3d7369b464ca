"""How a frozen network is executed. A backend is one file and one line in BACKENDS."""

BACKENDS: dict[str, str] = {
    "eager": "backends.eager:EagerBackend",
    "compile": "backends.compiled:CompileBackend",
    "null": "backends.null:NullBackend",
    "onnx": "backends.onnx_runtime:OnnxBackend",
    "tensorrt": "backends.tensorrt_engines:TensorRtBackend",
}
"""Backend name -> "module:class"; classes are imported only when asked for."""
