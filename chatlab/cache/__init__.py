"""The semantic answer cache: which stored answer may serve a question, and with what error."""
