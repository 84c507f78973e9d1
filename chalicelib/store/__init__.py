"""Where tasks are kept: the contract, in memory, on Alternator. Imports the ground floor only."""
