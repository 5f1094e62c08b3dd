"""Text: where it comes from, its words or characters, and the pieces that a network reads."""

from .averaging import AveragedSGD, BestByValidation
from .pieces import Piece, Pieces
from .sources import Text, load_text

__all__ = ["AveragedSGD", "BestByValidation", "Piece", "Pieces", "Text", "load_text"]
