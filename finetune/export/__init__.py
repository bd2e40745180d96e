"""The exported model: manifest, model card, single file, ONNX."""
