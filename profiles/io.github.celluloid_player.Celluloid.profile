[Application]
name=io.github.celluloid_player.Celluloid
command=celluloid;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
