using System.Net.Sockets;
using FramePin.V1;
using FramePin.V1.Local;
using Grpc.Core;

namespace FramePin.Client.Local;

/// <summary>A connection to the daemon's socket for local calls.</summary>
/// <remarks>One sender and one receiver at a time. Owns the socket.</remarks>
internal sealed class LocalConnection(Socket socket) : IDisposable
{
    /// <summary>As a gRPC channel of this library takes them.</summary>
    private const int PayloadMax = 64 << 20;

    private readonly PacketReader _reader = new(PayloadMax);

    /// <summary>Packets to be sent by <see cref="FlushAsync"/>.</summary>
    public PacketWriter Writer { get; } = new();

    /// <summary>False when the daemon, or this process, has closed it. Between calls only.</summary>
    public bool IsAlive
    {
        get
        {
            try
            {
                return !socket.Poll(0, SelectMode.SelectRead);
            }
            catch (ObjectDisposedException)
            {
                return false;
            }
        }
    }

    /// <summary>Appends the packet that begins a call.</summary>
    public void Begin(string method, Metadata? headers)
    {
        var call = new LocalCallHeader { Method = method };
        LocalHeaders.Add(call.Metadata, headers);
        Writer.Clear();
        Writer.Append(PacketKind.Call, call);
    }

    /// <summary>
    /// Sends what was appended. Throws RpcException (UNAVAILABLE) when the connection is broken or closed.
    /// </summary>
    public async ValueTask FlushAsync()
    {
        try
        {
            for (var packets = Writer.Packets; packets.Length > 0;)
                packets = packets[await socket.SendAsync(packets).ConfigureAwait(false)..];
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException)
        {
            throw Broken(exception);
        }
        finally
        {
            Writer.Clear();
        }
    }

    /// <summary>The next packet. Throws RpcException (UNAVAILABLE) when the connection is broken or closed.</summary>
    public async ValueTask<PacketKind> ReceiveAsync()
    {
        try
        {
            PacketKind kind;
            while (!_reader.TryTake(out kind))
            {
                var count = await socket.ReceiveAsync(_reader.Free).ConfigureAwait(false);
                if (count == 0) throw Broken(null);
                _reader.Received(count);
            }

            return kind;
        }
        catch (Exception exception) when (exception is SocketException or ObjectDisposedException
            or InvalidDataException)
        {
            throw Broken(exception);
        }
    }

    /// <summary>The payload as a message of a method.</summary>
    public T Read<T>(Marshaller<T> marshaller) => _reader.Read(marshaller);

    /// <summary>The payload as the end of a call.</summary>
    public (Status Status, Metadata Trailers) ReadStatus()
    {
        if (_reader.PayloadLength == 0) return (Status.DefaultSuccess, Metadata.Empty);
        var status = LocalStatus.Parser.ParseFrom(_reader.PayloadAsReadOnlySequence());
        return (new Status((StatusCode)status.Code, status.Message), LocalHeaders.From(status.Trailers));
    }

    /// <summary>
    /// Ends the connection, and cancels the call on it. From any thread: who sends or receives is told.
    /// </summary>
    public void Dispose() => socket.Dispose();

    private static RpcException Broken(Exception? cause) =>
        new(new Status(StatusCode.Unavailable, cause?.Message ?? "the daemon closed the connection", cause));
}
