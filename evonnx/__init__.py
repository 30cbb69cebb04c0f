"""evonnx: evolve a trained ONNX model into a smaller and faster one."""
