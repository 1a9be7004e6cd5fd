"""What a timeline remembers: keys and values, recurrent states, one position."""
