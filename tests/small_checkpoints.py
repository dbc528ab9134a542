"""Tiny checkpoints of Hugging Face, each in a folder as the hub has them."""

from pathlib import Path
from typing import Any

import torch

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS = [*SPECIAL, "what", "color", "is", "the", "cat", "red", "two", "no", "yes"]
WORDS += ["shape", "it", "green", "blue", "square", "disc"]


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_checkpoints(folder: Path) -> dict[str, Path]:
    """A tiny ViLT, BLIP and BERT; and a ViLT and a BLIP that were trained on other things than questions."""
    import transformers as hf

    torch.manual_seed(0)
    tiny = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 11}
    tiny |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 9, "pad_token_id": 0}
    labels = {"id2label": {0: "no", 1: "yes", 2: "red"}}
    special = {"bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "encoder_hidden_size": 8}
    vision = {**tiny, "image_size": 12, "patch_size": 4}
    made: dict[str, Any] = {
        "vilt": hf.ViltForQuestionAnswering(
            hf.ViltConfig(**tiny, **text, **labels, image_size=12, patch_size=4, max_image_length=-1)
        ),
        "blip": hf.BlipForQuestionAnswering(
            hf.BlipConfig(text_config={**tiny, **text, **special}, vision_config=vision, projection_dim=8)
        ),
        "bert": hf.BertModel(hf.BertConfig(**tiny, **text)),
    }
    made["masked"] = hf.ViltForMaskedLM(hf.ViltConfig(**tiny, **text, image_size=12, patch_size=4))
    made["captions"] = hf.BlipForConditionalGeneration(made["blip"].config)
    folders = {name: folder / name for name in made}
    for name, model in made.items():
        model.save_pretrained(folders[name])
        write_tokenizer(folders[name])
        hf.ViltImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.5]).save_pretrained(folders[name])
    return folders
