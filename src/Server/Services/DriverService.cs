using System.Globalization;
using FramePin.Core.Syscalls;
using FramePin.Server.Configuration;
using FramePin.Server.Drivers;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;
using FramePin.V1;
using Grpc.Core;
using Errno = FramePin.Core.Abi.Errno;
using MapFlags = FramePin.Core.Abi.MapFlags;
using Prot = FramePin.Core.Abi.Prot;

namespace FramePin.Server.Services;

/// <summary>Driver processes and the files that they serve: carries calls between applications and drivers.</summary>
internal sealed class DriverService(
    MachineRegistry machines, DriverRegistry drivers, DaemonOptions options, IHostApplicationLifetime lifetime)
        : V1.DriverService.DriverServiceBase
{
    /// <summary>
    /// -ERESTARTSYS, which drivers answer when a signal has ended their wait (include/linux/errno.h).
    /// </summary>
    private const uint RestartSys = 512;

    public override async Task ServeDriver(
        IAsyncStreamReader<DriverReply> requestStream, IServerStreamWriter<DriverCall> responseStream,
        ServerCallContext context)
    {
        if (!await requestStream.MoveNext(context.CancellationToken).ConfigureAwait(false)) return;
        if (requestStream.Current.Register is not { } register)
            throw Refusals.Bad("register", "the first message registers the driver");
        var host = machines.Get(Names.MachineId(register.Machine, "register.machine"));
        var driver = drivers.Register(host, register.Node, register.Driver);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(
            context.CancellationToken, lifetime.ApplicationStopping, host.Deleted);
        var sending = Task.CompletedTask;
        try
        {
            await responseStream.WriteAsync(new DriverCall(), either.Token).ConfigureAwait(false);
            sending = SendAsync(driver, responseStream, either.Token);
            while (await requestStream.MoveNext(either.Token).ConfigureAwait(false))
            {
                if (requestStream.Current.Answer is not { } answer)
                    throw Refusals.Bad("answer", "every message but the first answers a call");
                if (!driver.Answer(answer))
                    driver.Refuse(answer.Call, Refusals.NotFound("CALL", $"call {answer.Call}"));
            }
        }
        catch (OperationCanceledException) when (host.Deleted.IsCancellationRequested)
        {
            throw Refusals.NotFound("MACHINE", Names.Machine(host.Id));
        }
        catch (OperationCanceledException) when (lifetime.ApplicationStopping.IsCancellationRequested)
        {
            throw Refusals.Unavailable("SHUTTING_DOWN", "the daemon is ending");
        }
        finally
        {
            drivers.End(driver);
            await either.CancelAsync().ConfigureAwait(false);
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    public override Task<ListDriversResponse> ListDrivers(ListDriversRequest request, ServerCallContext context)
    {
        var host = machines.Get(Names.MachineId(request.Parent, "parent"));
        var (page, next) = Paging.ByName(
            drivers.Of(host), driver => driver.Node,
            new PageRequest(Names.Collection(host.Id, Names.Drivers), request.PageSize, request.PageToken),
            options.Limits);
        var response = new ListDriversResponse { NextPageToken = next };
        response.Drivers.Add(page.Select(driver => new Driver
        {
            Name = DriverRegistry.NameOf(driver),
            Driver_ = driver.Driver,
            OpenFiles = (uint)driver.Files.Count,
            Calls = (ulong)driver.Answered,
        }));
        return Task.FromResult(response);
    }

    public override Task<OpenDriverFileResponse> OpenDriverFile(
        OpenDriverFileRequest request, ServerCallContext context)
    {
        var (host, node) = machines.Resolve(request.Driver, Names.Drivers, "driver");
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            var (errno, file) = await drivers.OpenAsync(
                drivers.Get(host, node), host.Leases.Find(request.Lease), request.NonBlocking, cancelled)
                .ConfigureAwait(false);
            return new OpenDriverFileResponse
            {
                Errno = errno,
                File = file is null ? "" : DriverRegistry.NameOf(file),
            };
        });
    }

    public override Task<IoctlResponse> Ioctl(IoctlRequest request, ServerCallContext context)
    {
        var (host, file) = Find(request.File);
        return request.RequestId.Length == 0
            ? IoctlOnce(host, file, request, context.CancellationToken)
            : host.Requests.Run(
                context, request.RequestId, request, cancelled => IoctlOnce(host, file, request, cancelled));
    }

    private async Task<IoctlResponse> IoctlOnce(
        MachineHost host, OpenDriverFile? file, IoctlRequest request, CancellationToken cancelled)
    {
        if (file is null) return new IoctlResponse { Errno = (uint)Errno.ENODEV };
        if (request.Command.Length == 0 == (request.Request == 0))
            throw Refusals.Bad("request", "an ioctl has either a command (typed form) or a request (form of Linux)");
        if (request.AddressSpace.Length > 0) CheckSpace(host, request.AddressSpace);
        var ioctl = new IoctlCall
        {
            Command = request.Command,
            Argument = request.Argument,
            AddressSpace = request.AddressSpace,
            NonBlocking = request.NonBlocking || file.IsNonBlocking,
            Request = request.Request,
            Value = request.Value,
        };
        var answer = await AskAsync(
            file, new DriverCall { File = file.Number, Ioctl = ioctl }, request.RequestId, cancelled)
            .ConfigureAwait(false);
        return new IoctlResponse { Errno = answer.Errno, Argument = answer.Argument, Value = answer.Value };
    }

    public override Task<TransferDriverFileResponse> TransferDriverFile(
        TransferDriverFileRequest request, ServerCallContext context)
    {
        var (host, file) = Find(request.File);
        return request.RequestId.Length == 0
            ? TransferOnce(host, file, request, context.CancellationToken)
            : host.Requests.Run(
                context, request.RequestId, request, cancelled => TransferOnce(host, file, request, cancelled));
    }

    private async Task<TransferDriverFileResponse> TransferOnce(
        MachineHost host, OpenDriverFile? file, TransferDriverFileRequest request, CancellationToken cancelled)
    {
        if (file is null) return new TransferDriverFileResponse { Errno = (uint)Errno.ENODEV };
        CheckSpace(host, request.AddressSpace);
        var transfer = new TransferCall
        {
            Write = request.Write,
            AddressSpace = request.AddressSpace,
            Address = request.Address,
            Length = request.Length,
            NonBlocking = request.NonBlocking || file.IsNonBlocking,
        };
        var answer = await AskAsync(
            file, new DriverCall { File = file.Number, Transfer = transfer }, request.RequestId, cancelled)
            .ConfigureAwait(false);
        return new TransferDriverFileResponse { Errno = answer.Errno, Bytes = answer.Bytes };
    }

    public override Task<MapDriverFileResponse> MapDriverFile(
        MapDriverFileRequest request, ServerCallContext context)
    {
        var (host, file) = Find(request.File);
        return host.Requests.Run(
            context, request.RequestId, request, cancelled => MapOnce(host, file, request, cancelled));
    }

    private async Task<MapDriverFileResponse> MapOnce(
        MachineHost host, OpenDriverFile? file, MapDriverFileRequest request, CancellationToken cancelled)
    {
        if (file is null) return new MapDriverFileResponse { Errno = (uint)Errno.ENODEV };
        var space = CheckSpace(host, request.AddressSpace);
        var map = new MapCall
        {
            Length = request.Length,
            Prot = request.Prot,
            Flags = request.Flags,
            Offset = request.Offset,
        };
        var answer = await file.Driver.CallAsync(new DriverCall { File = file.Number, Map = map }, cancelled)
            .ConfigureAwait(false);
        if (answer.Errno != 0) return new MapDriverFileResponse { Errno = answer.Errno };
        var (owner, id) = machines.Resolve(answer.Device, Names.Devices, "device");
        if (owner != host) throw Refusals.Bad("device", "the driver named a device of another machine");
        var result = host.Machine.Mmap(space, new MmapRequest
        {
            Address = request.Address,
            Length = request.Length,
            Prot = (Prot)request.Prot,
            Flags = (MapFlags)request.Flags,
            Device = host.Devices.Get(id),
        });
        return new MapDriverFileResponse
        {
            Errno = (uint)result.Error,
            Address = result.Error == Errno.None ? result.Value : 0,
        };
    }

    public override Task<CloseDriverFileResponse> CloseDriverFile(
        CloseDriverFileRequest request, ServerCallContext context)
    {
        var (host, file) = Find(request.File);
        return host.Requests.Run(context, request.RequestId, request, async cancelled =>
        {
            // The close goes on when its caller leaves, and a repeat finds the file closed.
            if (file is not null) await drivers.Close(file).WaitAsync(cancelled).ConfigureAwait(false);
            return new CloseDriverFileResponse();
        });
    }

    /// <summary>
    /// Asks the driver. A call that is remembered waits for the driver's answer also when its caller has left, which
    /// the driver learns as a signal: either the driver has done its work, and a repeat gets the answer, or it answers
    /// that it stopped waiting, and a repeat asks anew.
    /// </summary>
    private static async Task<DriverAnswer> AskAsync(
        OpenDriverFile file, DriverCall call, string requestId, CancellationToken cancelled)
    {
        if (requestId.Length == 0) return await file.Driver.CallAsync(call, cancelled).ConfigureAwait(false);
        var answer = await file.Driver.CallToEndAsync(call, cancelled).ConfigureAwait(false);
        if (answer.Errno is RestartSys or (uint)Errno.EINTR) cancelled.ThrowIfCancellationRequested();
        return answer;
    }

    private static async Task SendAsync(
        ServedDriver driver, IServerStreamWriter<DriverCall> stream, CancellationToken cancelled)
    {
        await foreach (var call in driver.Outgoing.ReadAllAsync(cancelled).ConfigureAwait(false))
            await stream.WriteAsync(call, cancelled).ConfigureAwait(false);
    }

    private (MachineHost Host, OpenDriverFile? File) Find(string name)
    {
        var (host, text) = machines.Resolve(name, Names.DriverFiles, "file");
        return ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? (host, drivers.Find(host, number))
            : throw Refusals.Bad("file", "expected machines/{machine}/driverFiles/{number}");
    }

    private Core.Vmas.AddressSpace CheckSpace(MachineHost host, string name)
    {
        var (owner, id) = machines.Resolve(name, Names.AddressSpaces, "address_space");
        return owner == host ? owner.Spaces.Get(id)
            : throw Refusals.Bad("address_space", "belongs to another machine than the file");
    }
}
