"""How a counterfactual is searched. A method is one file and one line in METHODS."""

METHODS: dict[str, str] = {
    "ac-re": "methods.ac_re:AcRe",
    "diffae-re": "methods.diffae_re:DiffAeRe",
}
"""Method name -> "module:class"; classes are imported only when asked for."""
