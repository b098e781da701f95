"""What the runtimes of other people make of an exported file."""

import onnxruntime as ort
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes


def onnx_scores(path, x, optimized=None):
    """ONNX Runtime's output; ``optimized``: where to write the graph that it runs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if optimized:
        options.optimized_model_filepath = str(optimized)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x.numpy()})[0]


def qonnx_scores(path, x):
    """The model after shape inference, and the output of qonnx's executor."""
    model = ModelWrapper(str(path)).transform(InferShapes())
    return model, execute_onnx(model, {"input": x.numpy()})["output"]
