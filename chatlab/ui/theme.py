"""The look of Gradio's own components; `style.css` does the rest, from the same variables."""

from gradio.themes import Base
from gradio.themes.utils import colors, sizes

SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]


def theme() -> Base:
    """Calm greys with one green, in light and dark; fonts that are on the machine, so that nothing is fetched."""
    return Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.zinc,
        radius_size=sizes.radius_lg,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#17181a",
        body_text_color="#1d1f21",
        body_text_color_dark="#ececed",
        body_text_color_subdued="#5c6066",
        body_text_color_subdued_dark="#a6a9ae",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#17181a",
        background_fill_secondary="#f5f5f4",
        background_fill_secondary_dark="#1f2023",
        block_background_fill="#ffffff",
        block_background_fill_dark="#17181a",
        block_label_text_color="#1d1f21",
        block_label_text_color_dark="#ececed",
        block_info_text_color="#5c6066",
        block_info_text_color_dark="#a6a9ae",
        block_border_width="0px",
        input_background_fill="#f5f5f4",
        input_background_fill_dark="#242629",
        input_border_color="#d6d7d9",
        input_border_color_dark="#3a3d41",
        input_placeholder_color="#63676d",
        input_placeholder_color_dark="#9b9ea4",
        border_color_primary="#e2e3e5",
        border_color_primary_dark="#34373b",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#115e59",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#e9eaeb",
        button_secondary_background_fill_dark="#2e3135",
        button_secondary_text_color="#1d1f21",
        button_secondary_text_color_dark="#ececed",
        shadow_drop="none",
    )
