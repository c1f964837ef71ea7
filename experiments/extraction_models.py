"""Public model classes in tiny random configurations, each as a user would write it down, for `extraction`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import nn
from torch.nn import functional

from experiments.extraction_cnns import VGG, ResNet18

NUM_BATCHES, BATCH, LENGTH, VOCABULARY = 3, 2, 8, 64
Batches = list[tuple[Any, Any]]
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = TEXT | {"num_key_value_heads": 1}
IMAGE = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16,
    "patch_size": 4, "num_labels": 3,
}  # fmt: skip
T5 = hf.T5Config(
    vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
)


@dataclass(frozen=True)
class Case:
    """What a user brings: a module, mini-batches, and a loss."""

    model: nn.Module
    batches: Batches
    loss_fn: Callable[[Any, Any], torch.Tensor]


def language_loss(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every token."""
    return functional.cross_entropy(output.logits.flatten(0, 1), target.flatten())


def class_loss(output: Any, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every example."""
    return functional.cross_entropy(getattr(output, "logits", output), target)


def hidden_loss(output: Any, _: torch.Tensor) -> torch.Tensor:
    """Return something to differentiate for a model without a head."""
    return output.last_hidden_state.square().mean()


def own_loss(output: Any, _: torch.Tensor) -> torch.Tensor:
    """Return the loss that the model computes from the labels in the batch."""
    return output.loss


def contrastive_loss(output: Any, _: torch.Tensor) -> torch.Tensor:
    """Match every image with its text."""
    logits = output.logits_per_image
    return functional.cross_entropy(logits, torch.arange(len(logits)))


def tokens() -> Batches:
    """Return mini-batches of token ids, with the tokens to predict."""
    return [(batch["input_ids"], target) for batch, target in masked_tokens()]


def masked_tokens() -> Batches:
    """Return mini-batches of ids and attention mask, the last without padding, for which models take other kernels.

    Those with padding need more memory, and the pilot looks at the first.
    """
    batches: Batches = []
    for index in range(NUM_BATCHES):
        ids, target = torch.randint(3, VOCABULARY, (2, BATCH, LENGTH))
        mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
        mask[1, LENGTH - (NUM_BATCHES - 1 - index) :] = 0
        batches.append(({"input_ids": ids, "attention_mask": mask}, target))
    return batches


def labelled_tokens() -> Batches:
    """Return masked tokens with the target among the inputs, too."""
    return [({**batch, "labels": target}, target) for batch, target in masked_tokens()]


def texts() -> Batches:
    """Return masked tokens with a class each."""
    return [(batch, torch.randint(0, 2, (BATCH,))) for batch, _ in masked_tokens()]


def images(size: int = 16) -> Batches:
    """Return images with a class each."""
    return [(torch.randn(BATCH, 3, size, size), torch.randint(0, 3, (BATCH,))) for _ in range(NUM_BATCHES)]


def images_and_texts() -> Batches:
    """Return images each with a text."""
    both = zip(masked_tokens(), images(), strict=True)
    return [({**text, "pixel_values": pixels}, target) for (text, target), (pixels, _) in both]


def gpt2() -> Case:  # noqa: D103
    config = hf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    return Case(hf.GPT2LMHeadModel(config), tokens(), language_loss)


def llama() -> Case:  # noqa: D103
    return Case(hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)), masked_tokens(), language_loss)


def bert_mlm() -> Case:  # noqa: D103
    return Case(hf.BertForMaskedLM(hf.BertConfig(**TEXT)), masked_tokens(), language_loss)


def bert_classification() -> Case:  # noqa: D103
    return Case(hf.BertForSequenceClassification(hf.BertConfig(**TEXT)), texts(), class_loss)


def vit() -> Case:  # noqa: D103
    return Case(hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)), images(), class_loss)


def mistral() -> Case:  # noqa: D103
    config = hf.MistralConfig(**GROUPED, sliding_window=4)
    return Case(hf.MistralForCausalLM(config), masked_tokens(), language_loss)


def mixtral() -> Case:  # noqa: D103
    config = hf.MixtralConfig(**GROUPED, num_local_experts=2)
    return Case(hf.MixtralForCausalLM(config), masked_tokens(), language_loss)


def qwen2() -> Case:  # noqa: D103
    return Case(hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)), masked_tokens(), language_loss)


def gemma2() -> Case:  # noqa: D103
    config = hf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=4)
    return Case(hf.Gemma2ForCausalLM(config), masked_tokens(), language_loss)


def phi() -> Case:  # noqa: D103
    return Case(hf.PhiForCausalLM(hf.PhiConfig(**TEXT)), masked_tokens(), language_loss)


def gpt_neox() -> Case:  # noqa: D103
    return Case(hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**TEXT)), masked_tokens(), language_loss)


def bloom() -> Case:  # noqa: D103
    config = hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=3, n_head=2)
    return Case(hf.BloomForCausalLM(config), masked_tokens(), language_loss)


def opt() -> Case:  # noqa: D103
    config = hf.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=3, ffn_dim=32, num_attention_heads=2,
        max_position_embeddings=16, word_embed_proj_dim=16,
    )  # fmt: skip
    return Case(hf.OPTForCausalLM(config), masked_tokens(), language_loss)


def mamba() -> Case:  # noqa: D103
    config = hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=3, state_size=4)
    return Case(hf.MambaForCausalLM(config), tokens(), language_loss)


def distilbert() -> Case:  # noqa: D103
    config = hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=16
    )
    return Case(hf.DistilBertForSequenceClassification(config), texts(), class_loss)


def roberta() -> Case:  # noqa: D103
    return Case(hf.RobertaForMaskedLM(hf.RobertaConfig(**TEXT)), masked_tokens(), language_loss)


def albert() -> Case:  # noqa: D103
    return Case(hf.AlbertForMaskedLM(hf.AlbertConfig(**TEXT, embedding_size=8)), masked_tokens(), language_loss)


def deberta_v2() -> Case:  # noqa: D103
    config = hf.DebertaV2Config(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"])
    return Case(hf.DebertaV2ForSequenceClassification(config), texts(), class_loss)


def t5_encoder() -> Case:  # noqa: D103
    return Case(hf.T5EncoderModel(T5), masked_tokens(), hidden_loss)


def t5() -> Case:  # noqa: D103
    return Case(hf.T5ForConditionalGeneration(T5), labelled_tokens(), own_loss)


def bart() -> Case:  # noqa: D103
    config = hf.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=16,
    )  # fmt: skip
    return Case(hf.BartForConditionalGeneration(config), labelled_tokens(), own_loss)


def deit() -> Case:  # noqa: D103
    return Case(hf.DeiTForImageClassification(hf.DeiTConfig(**IMAGE)), images(), class_loss)


def swin() -> Case:  # noqa: D103
    config = hf.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=2, num_labels=3
    )
    return Case(hf.SwinForImageClassification(config), images(), class_loss)


def convnext() -> Case:  # noqa: D103
    config = hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 2], num_stages=2, num_labels=3, patch_size=2)
    return Case(hf.ConvNextForImageClassification(config), images(), class_loss)


def clip() -> Case:  # noqa: D103
    config = hf.CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=8)
    return Case(hf.CLIPModel(config), images_and_texts(), contrastive_loss)


def hf_resnet() -> Case:  # noqa: D103
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], num_labels=3, layer_type="basic")
    return Case(hf.ResNetForImageClassification(config), images(), class_loss)


def resnet18() -> Case:  # noqa: D103
    return Case(ResNet18(width=8, num_classes=3), images(32), class_loss)


def vgg11() -> Case:  # noqa: D103
    return Case(VGG(width=8, num_classes=3), images(32), class_loss)


def cases() -> Iterator[tuple[str, Callable[[], Case]]]:
    """Return every case by name, in the order written down here."""
    for name, function in globals().items():
        if callable(function) and getattr(function, "__annotations__", {}).get("return") == "Case":
            yield name, function
