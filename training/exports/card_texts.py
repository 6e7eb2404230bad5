"""What every model card says: how each format is read, and what no model of this kind is good for."""

from string import Template

OPEN_CLIP_LOADING = Template("""```python
import open_clip
import torch
from PIL import Image, ImageOps

model, _, preprocess = open_clip.create_model_and_transforms("$name")
tokenizer = open_clip.get_tokenizer("$name")
model.eval()
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as it was taken
with torch.no_grad():
    images = model.encode_image(preprocess(picture)[None], normalize=True)
    texts = model.encode_text(tokenizer(["..."]), normalize=True)
    print(images @ texts.T)
```""")

MOVED_FOLDER = """`open_clip_config.json` names this folder, since open_clip finds the text encoder's `config.json` by a
full path or on the hub only. Wherever else the folder lies, say so:

```python
import json
from pathlib import Path

import open_clip

folder = Path("FOLDER")
text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
model, _, preprocess = open_clip.create_model_and_transforms(
    f"local-dir:{folder}", text_cfg={**text, "hf_model_name": str(folder)}
)
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
```

For the hub, export it with `--hub-name`: the config then names its own repository."""

HUGGING_FACE_LOADING = Template("""```python
import torch
from PIL import Image, ImageOps
from transformers import $model, AutoProcessor

model = $model.from_pretrained("$name").eval()
processor = AutoProcessor.from_pretrained("$name", backend="pil")
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as it was taken
inputs = processor(images=[picture], text=["..."], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    found = model(**inputs)
print(found.image_embeds @ found.text_embeds.T, found.logits_per_image)
```

With `backend="pil"` pixels are what they were in training, to the bit; transformers' default by torchvision differs by
up to one of 255 steps of a colour.""")

ONNX_LOADING = """```python
import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers import AutoImageProcessor

prepare = AutoImageProcessor.from_pretrained("FOLDER", backend="pil")
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # upright, as it was taken
pixels = prepare(images=[picture], return_tensors="np")["pixel_values"]
texts = Tokenizer.from_file("FOLDER/tokenizer.json").encode_batch(["..."])
ids = np.array([text.ids for text in texts], dtype=np.int64)
image_features = InferenceSession("FOLDER/image.onnx").run(None, {"pixel_values": pixels})[0]
text_features = InferenceSession("FOLDER/text.onnx").run(None, {"input_ids": ids})[0]
print(image_features @ text_features.T)
```

`image.onnx` takes `pixel_values`, float32 (batch, 3, size, size); `text.onnx` takes `input_ids`, int64 (batch, length).
Both give features of length 1. The operator set is 18. Their metadata has the sha256 of the weights and the scale."""

CLEANING = """The tokenizer makes quotes straight, letters NFC and blanks single, as open_clip does before. What else
open_clip's wrapper does to a text has no counterpart here: entities of HTML, mojibake, ligatures, letters of full
width."""

NO_BIAS = Template("""The bias of $bias that training added to every logit, for which there is no place: features,
cosines and their order are the same, and so are probabilities by softmax; those by sigmoid are not.""")

EXACT = (
    "Checked when it was written, against the model that was trained: the same pixels and texts, features and cosines"
)

SCORES = """Splits are held-out images of the dataset that it was trained on; other sets have names of their own.
Intervals are 95 %, by bootstrap. Numbers of galleries of other sizes, or of other pictures, cannot be compared."""

ENERGY = """Time counts from when data and model were loaded, over all attempts, interrupted ones up to their last
resume state. Counters of a processor are of the whole package, whatever else ran on it; memory, disks, fans and cooling
are in none unless they are named."""

LIMITS = (
    "It puts pictures and texts near each other that look alike to it. Order, negation, counting, left and right are "
    "known to be hard for such models; scores do not show that.",
    "It repeats what its captions say of gender, age, ethnicity and work, and what they leave out.",
    "It is good for search and for comparing models of this kind. It is not good enough to decide about people with, "
    "to watch them, or to judge what is safe.",
)

OTHERS_WEIGHTS = (
    "Its training may have begun with weights of others, which were trained on data of theirs: their limits and terms "
    "are in it."
)
