"""PadChest's graph of findings: which findings are kinds of which other. Data only; hierarchy.py applies it to label columns.

The edges are those of the authors' trees (`manual_review/trees_code.txt` of github.com/auriml/Rx-thorax-automatic-captioning) between
findings that a table may name. A report names the most special finding, so the table lists `rib fracture` without `fracture`.
It is a graph and no tree: hydropneumothorax is a pneumothorax and a pleural effusion.
"""

KINDS = {
    "alveolar pattern": ("consolidation", "air bronchogram"),
    "artificial heart valve": ("artificial mitral heart valve", "artificial aortic heart valve"),
    "atelectasis": (
        "total atelectasis", "lobar atelectasis", "segmental atelectasis", "laminar atelectasis", "round atelectasis",
        "atelectasis basal",
    ),
    "atypical pneumonia": ("viral pneumonia",),
    "catheter": ("central venous catheter",),
    "central venous catheter": (
        "central venous catheter via subclavian vein", "central venous catheter via jugular vein",
        "central venous catheter via umbilical vein", "reservoir central venous catheter",
    ),
    "consolidation": ("air bronchogram",),
    "electrical device": ("dual chamber device", "single chamber device", "pacemaker", "dai"),
    "endoprosthesis": ("aortic endoprosthesis",),
    "fracture": ("clavicle fracture", "humeral fracture", "vertebral fracture", "rib fracture"),
    "interstitial pattern": (
        "ground glass pattern", "reticular interstitial pattern", "reticulonodular interstitial pattern",
        "miliary opacities",
    ),
    "mass": ("mediastinal mass", "breast mass", "pleural mass", "pulmonary mass", "soft tissue mass"),
    "metal": ("osteosynthesis material", "sternotomy", "suture material"),
    "nodule": ("multiple nodules",),
    "pleural effusion": (
        "loculated pleural effusion", "loculated fissural effusion", "hydropneumothorax", "empyema", "hemothorax",
    ),
    "pleural plaques": ("calcified pleural plaques",),
    "pleural thickening": ("apical pleural thickening", "calcified pleural thickening"),
    "pneumonia": ("atypical pneumonia",),
    "pneumothorax": ("hydropneumothorax",),
    "prosthesis": ("humeral prosthesis", "mammary prosthesis", "endoprosthesis"),
    "rib fracture": ("callus rib fracture",),
    "surgery": (
        "metal", "bone cement", "prosthesis", "surgery breast", "surgery neck", "surgery lung", "surgery heart",
        "surgery humeral",
    ),
    "surgery breast": ("mastectomy",),
}  # fmt: skip
"""Findings that are kinds of another, by that finding: whoever has one of them has the other."""

RELATED = {
    "adenopathy": ("calcified adenopathy",),
    "aortic elongation": (
        "descendent aortic elongation", "ascendent aortic elongation", "supra aortic elongation",
        "aortic button enlargement",
    ),
    "calcified adenopathy": ("calcified mediastinal adenopathy",),
    "calcified densities": (
        "calcified granuloma", "calcified adenopathy", "calcified pleural thickening", "calcified pleural plaques",
        "calcified fibroadenoma", "heart valve calcified",
    ),
    "fissure thickening": ("minor fissure thickening", "major fissure thickening", "loculated fissural effusion"),
    "granuloma": ("calcified granuloma",),
    "hilar enlargement": ("adenopathy", "vascular hilar enlargement"),
    "hypoexpansion": ("hypoexpansion basal",),  # not in the authors' trees, which lack this finding of the table
    "infiltrates": ("interstitial pattern", "alveolar pattern"),
    "mediastinal enlargement": (
        "superior mediastinal enlargement", "descendent aortic elongation", "ascendent aortic elongation",
        "aortic aneurysm", "mediastinal mass", "hiatal hernia",
    ),
    "pseudonodule": ("nipple shadow", "end on vessel"),
    "pulmonary fibrosis": ("post radiotherapy changes", "asbestosis signs"),
    "pulmonary hypertension": ("pulmonary artery hypertension", "pulmonary venous hypertension"),
    "sclerotic bone lesion": ("blastic bone lesion",),
    "superior mediastinal enlargement": ("goiter", "supra aortic elongation"),
    "thoracic cage deformation": ("scoliosis", "kyphosis", "pectum excavatum", "pectum carinatum", "cervical rib"),
    "tuberculosis": ("tuberculosis sequelae",),
    "vascular hilar enlargement": ("pulmonary artery enlargement",),
    "vascular redistribution": ("central vascular redistribution",),
    "vertebral compression": ("vertebral anterior compression",),
    "vertebral degenerative changes": ("vertebral compression",),
}  # fmt: skip
"""Findings below another in the authors' trees that other label sets would not count as it: sequelae are no active tuberculosis,
a hiatal hernia is no enlarged mediastinum. If only such a finding is named, the other is unknown."""
