"""Wake-up messages: hints sent by UDP to a processor, so that it need not wait for its next poll.

Nothing rests on them: the rows stand in the store, polls read them, and the store decides claims.
"""
