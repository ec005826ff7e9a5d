"""Small random models of the annotators' true classes, in folders as the hub has them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["fish", "house", "tree", "traffic", "light", "hot", "dog", "boat", "star", "heart", "##s"]


def bert_tokenizer(words=WORDS) -> t.PreTrainedTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "PAD", "CLS", "SEP", "MASK")}
    return t.PreTrainedTokenizerFast(tokenizer_object=made, **names)


def clip_tokenizer() -> t.PreTrainedTokenizerFast:
    special = ["<|pad|>", "<|unk|>", "<|startoftext|>", "<|endoftext|>"]
    words = [*special, "a", "photo", "of", *WORDS]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<|unk|>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 2), ("<|endoftext|>", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=True))
    return t.PreTrainedTokenizerFast(tokenizer_object=made, **names, model_max_length=16)


_SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_TEXT: dict[str, Any] = {**_SMALL, "intermediate_size": 16, "projection_dim": 16}
_VISION: dict[str, Any] = {**_TEXT, "image_size": 32, "patch_size": 8}
_TEXT |= {"vocab_size": len(clip_tokenizer()), "max_position_embeddings": 16}
_TEXT |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
_BOTH_WAYS: dict[str, Any] = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in {"layers": 1, "attention_heads": 2, "ffn_dim": 16}.items()
}


def grounding_dino(folder: Path) -> None:
    tokenizer = bert_tokenizer()
    ones = [1, 1, 1, 1]
    swin: dict[str, Any] = {"image_size": 32, "patch_size": 4, "window_size": 2, "embed_dim": 8}
    swin |= {"depths": ones, "num_heads": ones, "out_features": ["stage2", "stage3", "stage4"]}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    config = t.GroundingDinoConfig(
        backbone_config=t.SwinConfig(**swin),
        text_config={**_SMALL, "intermediate_size": 16, "model_type": "bert", **words},
        d_model=32,
        num_queries=12,
        max_text_len=32,
        **{**_BOTH_WAYS, "decoder_layers": 2},
    )
    t.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    t.GroundingDinoImageProcessorPil(
        size={"shortest_edge": 96, "longest_edge": 128}
    ).save_pretrained(folder)


def sam(folder: Path) -> None:
    side: dict[str, Any] = {"image_size": 64, "patch_size": 8}
    config = t.SamConfig(
        vision_config=t.SamVisionConfig(
            **_SMALL,
            output_channels=16,
            mlp_dim=16,
            num_pos_feats=8,
            window_size=4,
            global_attn_indexes=[0],
            **side,
        ),
        prompt_encoder_config=t.SamPromptEncoderConfig(
            hidden_size=16, mask_input_channels=4, **side
        ),
        mask_decoder_config=t.SamMaskDecoderConfig(**_SMALL, mlp_dim=16, iou_head_hidden_dim=16),
    )
    t.SamModel(config).save_pretrained(folder)
    t.SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    ).save_pretrained(folder)


def clip(folder: Path) -> None:
    t.CLIPModel(
        t.CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=16)
    ).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    t.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)


def siglip(folder: Path) -> None:
    text = {name: value for name, value in _TEXT.items() if name != "projection_dim"} | {
        "projection_size": 16
    }
    vision = {name: value for name, value in _VISION.items() if name != "projection_dim"}
    t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    t.SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def clipseg(folder: Path) -> None:
    config = t.CLIPSegConfig(
        text_config=_TEXT,
        vision_config=_VISION | {"num_hidden_layers": 3},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    t.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    t.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def florence2(folder: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
    places = [f"<loc_{i}>" for i in range(1000)]
    plain = ["fish", "tree", "dog", "a", "the", "Locate", "objects", "with", "category", "name"]
    words = [*special, *places, *plain, "in", "image", "."]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(special)
    made.add_tokens([AddedToken(place) for place in places])
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=False))
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=made, **names, extra_special_tokens={"image_token": "<image>"}
    )
    ones = [1, 1, 1, 1]
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    starts = {"decoder_start_token_id": 2, "forced_eos_token_id": 2}
    sizes = {"vocab_size": len(words), "max_position_embeddings": 128, "d_model": 16}
    vision = {"embed_dim": [8, 8, 8, 8], "num_heads": ones, "num_groups": ones, "depths": ones}
    config = t.Florence2Config(
        vision_config={**vision, "window_size": 2, "projection_dim": 16},
        text_config={"model_type": "bart", **_BOTH_WAYS, **ids, **starts, **sizes},
        image_token_id=4,
    )
    t.Florence2ForConditionalGeneration(config).save_pretrained(folder)
    pictures: Any = t.CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    pictures.image_seq_length = 5
    t.Florence2Processor(
        image_processor=pictures,
        tokenizer=tokenizer,
        post_processor_config={"pure_text": {}, "description_with_bboxes": {}},
    ).save_pretrained(folder)


BUILDERS = {
    build.__name__: build for build in (grounding_dino, sam, clip, siglip, clipseg, florence2)
}


class TinyAnnotators:
    """Builds each model when it is first asked for; the same weights every time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, name: str) -> str:
        folder = self.root / name
        if not folder.exists():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                BUILDERS[name](folder)
        return str(folder)


class Space:
    """Pictures and texts in a plane: a picture's mean grey is its angle, a text's angle is
    given.
    """

    def __init__(self, angles, *, bias=None):
        self.angles, self.read = angles, []

    def embed_images(self, images):
        turn = torch.from_numpy(images.reshape(len(images), -1).mean(axis=1)).deg2rad()
        return torch.stack([turn.cos(), turn.sin()], dim=1).float()

    def embed_texts(self, texts):
        self.read += texts
        turn = torch.tensor([float(self.angles[text]) for text in texts]).deg2rad()
        return torch.stack([turn.cos(), turn.sin()], dim=1)

    def scores(self, images, texts):
        return images @ texts.T

    def identity(self):
        return "space"


def greys(*values):
    return np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])
