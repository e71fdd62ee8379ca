using FramePin.Client;
using FramePin.V1;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>An application's open file of a driver's node: ioctl, read, write, mmap, close.</summary>
/// <remarks>
/// Any thread. Disposal closes the file; so does the end of its lease. Every method is one call and throws
/// <see cref="FramePinException"/> when the daemon refuses it or cannot be reached. Answers of the driver are errnos:
/// ENODEV when its process is gone.
/// </remarks>
public sealed partial class DriverHandle : IAsyncDisposable
{
    private readonly FramePinClient _client;

    /// <summary>Takes over a file that is open already. Makes no call.</summary>
    /// <param name="client">The daemon. It must outlive the file.</param>
    /// <param name="file">"machines/{m}/driverFiles/{number}".</param>
    public DriverHandle(FramePinClient client, string file)
    {
        _client = client;
        File = file;
    }

    /// <summary>"machines/{m}/driverFiles/{number}".</summary>
    public string File { get; }

    /// <summary>open. The file is null with the driver's errno.</summary>
    /// <param name="client">The daemon. It must outlive the file.</param>
    /// <param name="driver">"machines/{m}/drivers/{node}".</param>
    /// <param name="lease">Lease that the file is closed with; null for none.</param>
    /// <param name="isNonBlocking">O_NONBLOCK.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    /// <exception cref="FramePinException">NotFound: nobody serves the node.</exception>
    public static async Task<(Errno Errno, DriverHandle? File)> OpenAsync(
        FramePinClient client, string driver, string? lease = null, bool isNonBlocking = false,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var request = new OpenDriverFileRequest { Driver = driver, Lease = lease ?? "", NonBlocking = isNonBlocking };
        var answer = await client.Drivers.OpenDriverFileAsync(
            request, cancellationToken: cancellationToken).TypedAsync(cancellationToken).ConfigureAwait(false);
        return answer.Errno == 0 ? (Errno.None, new DriverHandle(client, answer.File)) : ((Errno)answer.Errno, null);
    }

    /// <summary>
    /// ioctl: the driver's errno and its answer. Has no deadline: a call that blocks ends by
    /// <paramref name="cancellationToken"/>, which is a signal. As with a system call, an answer that the driver had
    /// given before it heard of the signal is returned and not lost.
    /// </summary>
    /// <typeparam name="T">The message that driver and application have agreed on for the command.</typeparam>
    /// <param name="space">Address space that pointers in the argument mean; empty when there are none.</param>
    /// <param name="command">Name of the command, such as "VIDIOC_QBUF".</param>
    /// <param name="argument">The argument.</param>
    /// <param name="isNonBlocking">O_NONBLOCK for this call.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public async Task<(Errno Errno, T Answer)> IoctlAsync<T>(
        string space, string command, T argument, bool isNonBlocking = false,
        CancellationToken cancellationToken = default)
        where T : IMessage<T>, new()
    {
        var request = new IoctlRequest
        {
            File = File,
            Command = command,
            Argument = argument.ToByteString(),
            AddressSpace = space,
            NonBlocking = isNonBlocking,
        };
        if (cancellationToken.CanBeCanceled) request.Tag = NewTag();
        try
        {
            // The call on a frame's way: it awaits the stub in place, which saves the allocations of TypedAsync.
            var answer = cancellationToken.CanBeCanceled
                ? await SignalledAsync(
                    token => _client.Drivers.IoctlAsync(request, deadline: DateTime.MaxValue, cancellationToken: token),
                    request.Tag, static answer => answer.Errno, cancellationToken).ConfigureAwait(false)
                : await _client.Drivers.IoctlAsync(
                    request, deadline: DateTime.MaxValue, cancellationToken: CancellationToken.None).ConfigureAwait(
                        false);
            var result = new T();
            result.MergeFrom(answer.Argument);
            return ((Errno)answer.Errno, result);
        }
        catch (RpcException exception)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw FramePinException.From(exception);
        }
    }

    /// <summary>
    /// ioctl in the form of Linux, as a real program calls it: the driver's errno, the argument's bytes as the driver
    /// leaves them, and the return value of ioctl. Has no deadline, as the typed form.
    /// </summary>
    /// <param name="space">Address space that pointers in the argument mean; empty when there are none.</param>
    /// <param name="request">The number that _IO, _IOR, _IOW and _IOWR make.</param>
    /// <param name="argument">The bytes behind the argument's pointer; none where the driver is to load and store them
    /// in the address space, as vivid does.</param>
    /// <param name="value">The argument itself: a number, or a pointer without its bytes.</param>
    /// <param name="isNonBlocking">O_NONBLOCK for this call.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was signalled.</exception>
    public async Task<(Errno Errno, ReadOnlyMemory<byte> Argument, uint Value)> UapiIoctlAsync(
        string space, uint request, ReadOnlyMemory<byte> argument, ulong value = 0, bool isNonBlocking = false,
        CancellationToken cancellationToken = default)
    {
        var call = new IoctlRequest
        {
            File = File,
            Request = request,
            Argument = ByteString.CopyFrom(argument.Span),
            Value = value,
            AddressSpace = space,
            NonBlocking = isNonBlocking,
        };
        if (cancellationToken.CanBeCanceled) call.Tag = NewTag();
        var answer = await SignalledTypedAsync(
            token => _client.Drivers.IoctlAsync(call, deadline: DateTime.MaxValue, cancellationToken: token),
            call.Tag, static answer => answer.Errno, cancellationToken).ConfigureAwait(false);
        return ((Errno)answer.Errno, answer.Argument.Memory, answer.Value);
    }

    /// <summary>
    /// read: bytes go from the file to memory of an address space. The answer is the bytes done, or the driver's errno.
    /// Has no deadline, as ioctl.
    /// </summary>
    /// <param name="space">Name of the address space.</param>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="isNonBlocking">O_NONBLOCK for this call.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, ulong Bytes)> ReadAsync(
        string space, ulong address, ulong length, bool isNonBlocking = false,
        CancellationToken cancellationToken = default) =>
        TransferAsync(space, address, length, isWrite: false, isNonBlocking, cancellationToken);

    /// <summary>
    /// write: bytes go from memory of an address space to the file. The answer is the bytes done, or the driver's
    /// errno. Has no deadline, as ioctl.
    /// </summary>
    /// <param name="space">Name of the address space.</param>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="isNonBlocking">O_NONBLOCK for this call.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public Task<(Errno Errno, ulong Bytes)> WriteAsync(
        string space, ulong address, ulong length, bool isNonBlocking = false,
        CancellationToken cancellationToken = default) =>
        TransferAsync(space, address, length, isWrite: true, isNonBlocking, cancellationToken);

    private async Task<(Errno Errno, ulong Bytes)> TransferAsync(
        string space, ulong address, ulong length, bool isWrite, bool isNonBlocking,
        CancellationToken cancellationToken)
    {
        var request = new TransferDriverFileRequest
        {
            File = File,
            Write = isWrite,
            AddressSpace = space,
            Address = address,
            Length = length,
            NonBlocking = isNonBlocking,
        };
        if (cancellationToken.CanBeCanceled) request.Tag = NewTag();
        var answer = await SignalledTypedAsync(
            token => _client.Drivers.TransferDriverFileAsync(
                request, deadline: DateTime.MaxValue, cancellationToken: token),
            request.Tag, static answer => answer.Errno, cancellationToken).ConfigureAwait(false);
        return ((Errno)answer.Errno, answer.Bytes);
    }

    /// <summary>
    /// poll: what the file is ready for of the events that are asked for, <see cref="PollEvents.Error"/> included;
    /// nothing when the time is over.
    /// </summary>
    /// <param name="events">What is asked for.</param>
    /// <param name="timeout">How long to wait; zero: not at all; null: without an end.</param>
    /// <param name="cancellationToken">A signal: the driver stops waiting.</param>
    public async Task<(Errno Errno, PollEvents Events)> PollAsync(
        PollEvents events, TimeSpan? timeout = null, CancellationToken cancellationToken = default)
    {
        var request = new PollDriverFileRequest
        {
            File = File,
            Events = (uint)events,
            Timeout = timeout is { } time ? Duration.FromTimeSpan(time) : null,
        };
        var answer = await _client.Drivers.PollDriverFileAsync(
            request, deadline: DateTime.MaxValue, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return ((Errno)answer.Errno, (PollEvents)answer.Events);
    }

    /// <summary>mmap of the file: the address, or the errno of the driver or of mmap.</summary>
    /// <param name="space">Name of the address space.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="prot">PROT_*.</param>
    /// <param name="flags">MAP_*.</param>
    /// <param name="offset">Offset in the file in bytes, as the driver gave it out.</param>
    /// <param name="address">Hint, or the address with MAP_FIXED; 0: the kernel chooses.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public async Task<(Errno Errno, ulong Address)> MapAsync(
        string space, ulong length, uint prot, uint flags, ulong offset, ulong address = 0,
        CancellationToken cancellationToken = default)
    {
        var request = new MapDriverFileRequest
        {
            File = File,
            AddressSpace = space,
            Address = address,
            Length = length,
            Prot = prot,
            Flags = flags,
            Offset = offset,
        };
        var answer = await _client.Drivers.MapDriverFileAsync(
            request, cancellationToken: cancellationToken).TypedAsync(cancellationToken).ConfigureAwait(false);
        return ((Errno)answer.Errno, answer.Address);
    }

    /// <summary>close. Completes when the driver has released the file. Does not throw.</summary>
    public async ValueTask DisposeAsync()
    {
        try
        {
            await _client.Drivers.CloseDriverFileAsync(
                new CloseDriverFileRequest { File = File }).ConfigureAwait(false);
        }
        catch (RpcException)
        {
            // The daemon is gone, and the file with it.
        }
    }
}
