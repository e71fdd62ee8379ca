using System.Net.Sockets;
using File = System.IO.File;

namespace FramePin.Tests.Integration;

/// <summary>Stands between clients and a daemon's Unix socket, and can break every connection at once.</summary>
internal sealed class SocketRelay : IDisposable
{
    private readonly Lock _lock = new();
    private readonly List<Socket> _open = [];
    private readonly Socket _listener = NewSocket();
    private readonly string _target;

    public SocketRelay(string target)
    {
        _target = target;
        Path = System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"framepin-relay-{Guid.NewGuid():N}.sock");
        _listener.Bind(new UnixDomainSocketEndPoint(Path));
        _listener.Listen();
        _ = AcceptAsync();
    }

    public string Path { get; }

    /// <summary>A connection breaks as soon as the daemon says something on it.</summary>
    public bool LosesAnswers { get; set; }

    public void BreakAll()
    {
        lock (_lock)
        {
            foreach (var socket in _open) socket.Dispose();
            _open.Clear();
        }
    }

    public void Dispose()
    {
        _listener.Dispose();
        BreakAll();
        File.Delete(Path);
    }

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                var near = await _listener.AcceptAsync();
                var far = NewSocket();
                await far.ConnectAsync(new UnixDomainSocketEndPoint(_target));
                lock (_lock) _open.AddRange([near, far]);
                _ = CopyAsync(near, far, isAnswer: false);
                _ = CopyAsync(far, near, isAnswer: true);
            }
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // The relay is at its end.
        }
    }

    private async Task CopyAsync(Socket from, Socket to, bool isAnswer)
    {
        var buffer = new byte[65536];
        try
        {
            while (await from.ReceiveAsync(buffer) is var count and > 0 && !(isAnswer && LosesAnswers))
                for (var sent = 0; sent < count;) sent += await to.SendAsync(buffer.AsMemory(sent, count - sent));
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            // Broken, by one side or by the test.
        }

        from.Dispose();
        to.Dispose();
    }

    private static Socket NewSocket() => new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
}
