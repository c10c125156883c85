"""The sizes of the TAP that tests train."""

MODEL = {
    "image_size": 64,
    "window_size": 2,
    "encoder_depth": 4,
    "encoder_dim": 32,
    "encoder_heads": 2,
    "embed_dim": 32,
    "decoder_heads": 2,
    "concept_dim": 64,
    "text_depth": 1,
    "text_dim": 32,
    "text_heads": 1,
    "vocab_size": 64,
    "drop_path": 0.1,
    "decoder_dropout": 0.1,
}
