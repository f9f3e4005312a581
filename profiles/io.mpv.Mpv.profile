[Application]
name=io.mpv.Mpv
command=mpv;
[Context]
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
