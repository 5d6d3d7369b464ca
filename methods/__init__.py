"""How a counterfactual is searched. A method is one file and one line in METHODS."""

METHODS: dict[str, str] = {
    "ac-re": "methods.ac_re:AcRe",
    "ac-re-gn": "methods.ac_re_gn:AcReGn",
    "diffae-re": "methods.diffae_re:DiffAeRe",
    "diffae-re-gn": "methods.diffae_re_gn:DiffAeReGn",
    "pgd": "methods.pgd:Pgd",
    "pgd-re": "methods.pgd:PgdRe",
    "ace": "methods.ace:Ace",
    "ace-re": "methods.ace:AceRe",
    "dime": "methods.dime:Dime",
    "dime-re": "methods.dime:DimeRe",
}
"""Method name -> "module:class"; classes are imported only when asked for."""
