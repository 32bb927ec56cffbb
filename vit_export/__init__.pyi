# What type checkers and editors read in place of __init__.py, which imports each of these names when it is used.
from vit_export.api import create_vit as create_vit
from vit_export.api import create_vit_b16 as create_vit_b16
from vit_export.api import create_vit_b32 as create_vit_b32
from vit_export.api import create_vit_h14 as create_vit_h14
from vit_export.api import create_vit_h16 as create_vit_h16
from vit_export.api import create_vit_l16 as create_vit_l16
from vit_export.api import create_vit_l32 as create_vit_l32
from vit_export.api import create_vit_s16 as create_vit_s16
from vit_export.api import create_vit_s32 as create_vit_s32
from vit_export.api import create_vit_ti16 as create_vit_ti16
from vit_export.api import export as export
from vit_export.base.errors import InputError as InputError
from vit_export.base.errors import OutputError as OutputError
from vit_export.base.errors import VitExportError as VitExportError
from vit_export.bundles.pack import bundle as bundle
from vit_export.evaluation.evaluate import evaluate as evaluate
from vit_export.images.pictures import Pictures as Pictures
from vit_export.images.split import find_images as find_images
from vit_export.model.keras_model import VisionTransformer as VisionTransformer
from vit_export.model.labels import read_labels as read_labels
from vit_export.model.listing import compare_variants as compare_variants
from vit_export.model.listing import list_variants as list_variants
from vit_export.model.preprocessing import Preprocessing as Preprocessing
from vit_export.model.saved_model import write_saved_model as write_saved_model
from vit_export.model.spec import ViTSpec as ViTSpec
from vit_export.model.variants import VARIANTS as VARIANTS
from vit_export.pipeline.predict import predict as predict
from vit_export.pipeline.request import ExportRequest as ExportRequest
from vit_export.pipeline.steps import ExportResult as ExportResult
from vit_export.pipeline.verify_files import VerifyRequest as VerifyRequest
from vit_export.pipeline.verify_files import verify_files as verify_files
from vit_export.runtimes.benchmark import bench as bench
from vit_export.verification.options import VerifyOptions as VerifyOptions
from vit_export.verification.verifier import verify as verify
from vit_export.weights.open import open_checkpoint as open_checkpoint

__version__: str
