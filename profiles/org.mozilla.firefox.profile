[Application]
name=org.mozilla.firefox
command=firefox;firefox-esr
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
filesystems=~/.mozilla:create;
features=userns;
[Session Bus Policy]
org.mpris.MediaPlayer2.firefox.*=own
