"""What to cite: the method's paper, and each upstream dataset's."""

from collections.abc import Mapping
from typing import Any

METHOD = (
    "Bianchi, F., Attanasio, G., Pisoni, R., Terragni, S., Sarti, G., Lakshmi, S. (2021). Contrastive Language-Image "
    "Pre-training for the Italian Language. arXiv:2108.08688"
)

_COCO = "Lin, T.-Y. et al. (2014). Microsoft COCO: Common Objects in Context. arXiv:1405.0312"

# By kind of source.
_UPSTREAM = {
    "wit": "Srinivasan, K. et al. (2021). WIT: Wikipedia-based Image Text Dataset for Multimodal Multilingual Machine "
    "Learning. arXiv:2103.01913",
    "mscoco": f"{_COCO}; Chen, X. et al. (2015). Microsoft COCO Captions. arXiv:1504.00325",
    "mscoco_it": "Scaiella, A., Croce, D., Basili, R. (2019). Large scale datasets for Image and Video Captioning in "
    f"Italian. IJCoL 5(2); {_COCO}",
    "cc3m": "Sharma, P. et al. (2018). Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text Dataset For "
    "Automatic Image Captioning. ACL",
    "cc12m": "Changpinyo, S. et al. (2021). Conceptual 12M. arXiv:2102.08981",
    "flickr8k": "Hodosh, M., Young, P., Hockenmaier, J. (2013). Framing Image Description as a Ranking Task. JAIR 47",
    "flickr30k": "Young, P. et al. (2014). From image descriptions to visual denotations. TACL 2",
    "sbu": "Ordonez, V., Kulkarni, G., Berg, T. (2011). Im2Text: Describing Images Using 1 Million Captioned "
    "Photographs. NeurIPS 24",
}


def upstream_paper(manifest: Mapping[str, Any], source: str) -> str | None:
    """The paper of a source's dataset; a source whose licence the recipe states only borrows the dataset's format."""
    if "licence" in manifest["sources"][source].get("rights", {}):
        return None
    return _UPSTREAM.get(manifest["settings"]["sources"][source]["kind"])
