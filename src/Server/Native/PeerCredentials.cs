using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace FramePin.Server.Native;

/// <summary>
/// The process at the other end of a Unix socket, as the kernel noted it at connect (SO_PEERCRED, SO_PEERGROUPS).
/// </summary>
/// <param name="Pid">Number of the process.</param>
/// <param name="User">Effective user.</param>
/// <param name="Group">Effective group.</param>
/// <param name="Groups">Supplementary groups.</param>
internal sealed record PeerCredentials(int Pid, uint User, uint Group, IReadOnlyList<uint> Groups)
{
    private const int SolSocket = 1;
    private const int PeerCred = 17;
    private const int PeerGroups = 59;
    private const int MostGroups = 65536;

    public static PeerCredentials Of(Socket socket)
    {
        Span<int> credentials = stackalloc int[3];
        socket.GetRawSocketOption(SolSocket, PeerCred, MemoryMarshal.AsBytes(credentials));
        var groups = new uint[MostGroups];
        var length = socket.GetRawSocketOption(SolSocket, PeerGroups, MemoryMarshal.AsBytes(groups.AsSpan()));
        return new PeerCredentials(
            credentials[0], (uint)credentials[1], (uint)credentials[2], groups[..(length / sizeof(uint))]);
    }

    public bool IsIn(uint group) => Group == group || Groups.Contains(group);
}
