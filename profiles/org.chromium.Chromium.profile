# What Chromium saves without asking goes to ~/.var/app/org.chromium.Chromium/Downloads.
[Application]
name=org.chromium.Chromium
command=chromium;chromium-browser;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
persistent=Downloads;
features=userns;
[Session Bus Policy]
org.mpris.MediaPlayer2.chromium.*=own
