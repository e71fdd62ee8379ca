using System.Buffers.Binary;
using System.Diagnostics;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Samples;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>The sample driver of one's own, in C# and in Python, as the program that a reader would start.</summary>
public sealed class SampleTests
{
    private const ulong At = 0x1000_0000;

    [Theory]
    [InlineData("C#")]
    [InlineData("Python")]
    public async Task The_dma_engine_copies_and_is_short(string language)
    {
        var cancelled = TestContext.Current.CancellationToken;
        await using var daemon = await DaemonProcess.StartAsync();
        using var stubs = language == "Python" ? await PythonStubs.MakeAsync(cancelled) : null;
        using var engine = stubs?.Start(
            Path.Combine(AppContext.BaseDirectory, "samples", "dma_engine.py"), daemon.Endpoint)
            ?? Process.Start(new ProcessStartInfo(
                Path.Combine(
                    AppContext.BaseDirectory.Replace("FramePin.Tests.Integration", "FramePin.Samples.DmaEngine",
                        StringComparison.Ordinal), "dma-engine"),
                [daemon.Endpoint])
            { RedirectStandardOutput = true })!;
        Assert.Equal(
            "dma-engine serves machines/default/drivers/dma0", await engine.StandardOutput.ReadLineAsync(cancelled));
        using var client = FramePinClient.Connect(daemon.Endpoint);
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest(), cancellationToken: cancelled)).Name;
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 256 * 4096, Prot = 3, Flags = 0x32 } };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = map }, cancellationToken: cancelled);
        var memory = new RemoteFrameMemory(client);
        var sent = new byte[200_000];
        new Random(1).NextBytes(sent);
        await memory.WriteAsync(space, At + 100, sent, cancelled);
        var (_, file) = await DriverHandle.OpenAsync(
            client, "machines/default/drivers/dma0", cancellationToken: cancelled);
        var copy = new DmaCopy { Source = At + 100, Destination = At + (100 * 4096) + 77, Length = 200_000 };
        var (errno, answer) = await file!.IoctlAsync(space, DmaEngine.CopyCommand, copy, cancellationToken: cancelled);
        Assert.Equal((Errno.None, 200_000UL), (errno, answer.Copied));
        var got = new byte[sent.Length];
        await memory.ReadAsync(space, copy.Destination, got, cancelled);
        Assert.Equal(sent, got);
        // The same by number and bytes, as a C program calls it.
        var bytes = new byte[32];
        foreach (var (field, value) in new[] { (0, At + 100), (8, At + (180 * 4096)), (16, 5000UL) })
            BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(field), value);
        var uapi = await file.UapiIoctlAsync(space, DmaEngine.CopyRequest, bytes, cancellationToken: cancelled);
        Assert.Equal(
            (Errno.None, 5000UL),
            (uapi.Errno, BinaryPrimitives.ReadUInt64LittleEndian(uapi.Argument.Span[24..])));
        Assert.Equal(bytes.AsSpan(0, 24), uapi.Argument.Span[..24]);
        await memory.ReadAsync(space, At + (180 * 4096), got.AsMemory(0, 5000), cancelled);
        Assert.Equal(sent.AsSpan(0, 5000), got.AsSpan(0, 5000));
        Assert.Equal(
            Errno.ENOTTY, (await file.UapiIoctlAsync(space, 0xC020_4402, bytes, cancellationToken: cancelled)).Errno);
        Assert.Equal(
            Errno.EFAULT,
            (await file.UapiIoctlAsync(
                space, DmaEngine.CopyRequest, bytes.AsMemory(1), cancellationToken: cancelled)).Errno);
        copy.Destination = 0x5000_0000;
        Assert.Equal(
            Errno.EFAULT, (await file.IoctlAsync(
                space, DmaEngine.CopyCommand, copy, cancellationToken: cancelled)).Errno);
        copy.Length = 0;
        Assert.Equal(
            Errno.EINVAL, (await file.IoctlAsync(
                space, DmaEngine.CopyCommand, copy, cancellationToken: cancelled)).Errno);
        Assert.Equal(
            Errno.ENOTTY, (await file.IoctlAsync(space, "DMA_NOTHING", copy, cancellationToken: cancelled)).Errno);
        await file.DisposeAsync();
        var statistics = (await client.Machines.GetMachineAsync(
            new GetMachineRequest(), cancellationToken: cancelled)).Statistics;
        Assert.Equal((statistics.PinsAcquired, 0U), (statistics.PinsReleased, statistics.FrameVectors));
        engine.Kill();
        await engine.WaitForExitAsync(cancelled);
    }
}
