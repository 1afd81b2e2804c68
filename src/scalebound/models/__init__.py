"""Language models behind one small interface.

In: a Hugging Face folder, a ``.gguf`` file, a run, a checkpoint or a package. Out: a :class:`LanguageModel` that turns token ids into
hidden states and hidden states into logits. Our own decoder-only transformer is in :mod:`~scalebound.models.transformer`; it is saved as a
Llama-style folder that ``transformers`` opens unchanged; :mod:`~scalebound.models.export` makes such a folder of a package,
:mod:`~scalebound.models.mixture` one of the mixture that a certificate is about. Start reading
at :mod:`~scalebound.models.language_model`.
"""

from scalebound.models.export import export_package as export_package
from scalebound.models.folder import save_folder as save_folder
from scalebound.models.keep_codes import keep_codes as keep_codes
from scalebound.models.language_model import LanguageModel as LanguageModel
from scalebound.models.load import load_model as load_model
from scalebound.models.mixture import export_certified as export_certified
from scalebound.models.shape import Shape as Shape
from scalebound.models.shape import shape_for as shape_for
from scalebound.models.start import Start as Start
from scalebound.models.start import open_trainable as open_trainable
from scalebound.models.trainable import Trainable as Trainable
from scalebound.models.transformer import Transformer as Transformer
