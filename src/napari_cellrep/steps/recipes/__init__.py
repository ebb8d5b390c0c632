"""The recipes of `analyze`, one file for each kind of question; `registry` names them all."""
