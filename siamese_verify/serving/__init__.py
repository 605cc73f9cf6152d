"""HTTP API and web page over verification; importing it loads no torch, and no photo is ever written down.

`create_app` makes the application of a verifier, `run` serves it, `KeyFile` keeps who may ask."""
