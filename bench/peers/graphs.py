#!/usr/bin/env python3
"""The model as graphs for ONNX Runtime and OpenVINO, each in the forms in which it is fastest.

    graphs.py --model DIR --calibration FILE.txt --out DIR

plain.onnx, fused.onnx            f32, without and with the fused attention of onnxruntime.transformers
plain-int8.onnx, fused-int8.onnx  the same, quantised dynamically; a scale per column of a weight, because one scale
                                  for a whole weight costs a tenth of the cosine and gains no speed
model.xml                         f32 or bf16 as the reader asks, scaled dot product attention kept as one operation
int8.xml                          quantised by NNCF after training, calibrated on the paragraphs of --calibration
int8-dynamic.xml                  int8 weights; activations are quantised while it runs

Inputs are input_ids and attention_mask [texts, longest] i64, both sizes free; the output is vectors [texts, 384] f32,
mean-pooled over the mask and normalised.
"""

import argparse
from pathlib import Path

import nncf
import onnx
import openvino
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from transformers import AutoConfig, AutoModel

from engines import load_tokenizer, padded

CALIBRATION_TEXTS = 300
CALIBRATION_SHORTEST_CHARS = 80
INPUTS = ["input_ids", "attention_mask"]
OPSET = 17


class Embedder(torch.nn.Module):
    """Token ids to normalised vectors, as sentence-transformers does it with the modules of all-MiniLM-L6-v2."""

    def __init__(self, model_dir, attention):
        super().__init__()
        self.transformer = AutoModel.from_pretrained(model_dir, attn_implementation=attention).eval()

    def forward(self, input_ids, attention_mask):
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--calibration", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    write_onnx(arguments.model, arguments.out)
    write_openvino(arguments.model, arguments.calibration, arguments.out)


def write_onnx(model_dir, out):
    export(model_dir, out / "plain.onnx")
    fuse(model_dir, out / "plain.onnx", out / "fused.onnx")
    for form in ("plain", "fused"):
        # The fused operations have no shape inference; what comes out of them is f32.
        float_type = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(
            out / f"{form}.onnx",
            out / f"{form}-int8.onnx",
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options=float_type,
        )


def export(model_dir, file):
    """By tracing, with attention written out: the fusions know that form and no other."""
    sizes = {0: "texts", 1: "longest"}
    torch.onnx.export(
        Embedder(model_dir, attention="eager"),
        example(),
        file,
        input_names=INPUTS,
        output_names=["vectors"],
        dynamic_axes={"input_ids": sizes, "attention_mask": sizes, "vectors": {0: "texts"}},
        opset_version=OPSET,
        dynamo=False,
    )


def fuse(model_dir, plain, fused):
    config = AutoConfig.from_pretrained(model_dir)
    heads, width = config.num_attention_heads, config.hidden_size
    model = optimizer.optimize_model(str(plain), model_type="bert", num_heads=heads, hidden_size=width, opt_level=1)
    layers = model.get_fused_operator_statistics()["Attention"]
    if layers != config.num_hidden_layers:
        raise RuntimeError(f"attention was fused in {layers} of {config.num_hidden_layers} layers")
    model.save_model_to_file(str(fused))


def write_openvino(model_dir, calibration, out):
    free = [-1, -1]
    model = openvino.convert_model(
        Embedder(model_dir, attention="sdpa"),
        example_input=dict(zip(INPUTS, example())),
        input=[(name, free) for name in INPUTS],
    )
    openvino.save_model(model, out / "model.xml", compress_to_fp16=False)
    # MIXED gives activations a zero point: faster and closer than PERFORMANCE on this model.
    quantized = nncf.quantize(
        model,
        calibration_dataset(model_dir, calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=CALIBRATION_TEXTS,
    )
    openvino.save_model(quantized, out / "int8.xml", compress_to_fp16=False)
    weights = openvino.Core().read_model(out / "model.xml")
    weights = nncf.compress_weights(weights, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(weights, out / "int8-dynamic.xml", compress_to_fp16=False)


def calibration_dataset(model_dir, file):
    paragraphs = [" ".join(block.split()) for block in file.read_text(encoding="utf-8").split("\n\n")]
    paragraphs = [paragraph for paragraph in paragraphs if len(paragraph) >= CALIBRATION_SHORTEST_CHARS]
    encodings = load_tokenizer(model_dir).encode_batch(paragraphs[:CALIBRATION_TEXTS])
    return nncf.Dataset([padded(encodings, [row]) for row in range(len(encodings))])


def example():
    """Two texts, one of them padded, so that tracing sees a mask that matters."""
    input_ids = torch.randint(1000, 5000, (2, 16))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 9:] = 0
    return input_ids, attention_mask


if __name__ == "__main__":
    main()
