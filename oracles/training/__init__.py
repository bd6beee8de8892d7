"""Commands that fit and train what the property oracles ship: they need the development data ($AL_CRYSTAL_DATA)."""
