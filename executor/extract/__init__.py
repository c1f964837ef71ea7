"""Turns unmodified modules into chains of layers, and proves that they compute the same bits."""

from executor.errors import ExtractionError
from executor.extract.extraction import Keywords, called_with, chain_of, extractor, layers_of

__all__ = ["ExtractionError", "Keywords", "called_with", "chain_of", "extractor", "layers_of"]
