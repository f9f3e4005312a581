# Needs a place to write to: sbx-run --filesystem="$PWD" yt-dlp URL
[Application]
name=io.github.yt_dlp.yt-dlp
command=yt-dlp;
[Context]
shared=network;
