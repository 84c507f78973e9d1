"""How requests get to the nodes: connections, signatures, TLS, limits. Imports the ground floor,
the contract, and what a request and its outcome are."""
