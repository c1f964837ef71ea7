"""Turns unmodified modules into chains of layers, and proves that they compute the same bits.

    layers = layers_of(model, example_input, loss_fn, target)

A model is divided into *pieces*, modules that run whole (the blocks of a stack, embeddings, a head), and
*glue*, the forward code of the containers around them. Every layer runs the model's own glue, from the
beginning, on a copy of its structure; calls of pieces are answered from the boundary, run, or end the layer
(see `window`). Which piece needs what of what was there before is found in one recorded run (`recording`).

Why not a traced graph (torch.export, torch.fx, Dynamo), cut between blocks: a trace fixes what the first
batch decided. transformers leaves the attention mask out if nothing is masked, and takes another kernel
then: a trace made on a full batch is silently wrong on a padded one, and one made for export gives other
bits than plain training. A trace also fixes shapes and the mode (dropout), and runs other code in the blocks
than the user's. Why not known layouts by class (embed, layers, norm, head): each knows one family. Here the
code that runs is the user's, batch by batch, and no family is known.

What cannot be: control flow that depends on what pieces computed, or on chance; state in Python attributes;
pieces that return objects. And nothing is cut apart between two uses of what glue computes with gradient: each
layer would compute it anew, and the sums of its gradient would be in another order.
"""

from executor.errors import ExtractionError
from executor.extract.extraction import Keywords, called_with, chain_of, extractor, layers_of

__all__ = ["ExtractionError", "Keywords", "called_with", "chain_of", "extractor", "layers_of"]
