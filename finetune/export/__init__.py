"""The exported model: fp16 folder, manifest, model card, single file, ONNX."""
