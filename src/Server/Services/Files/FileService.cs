using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;

namespace FramePin.Server.Services;

/// <summary>Memory files over the wire; one file a call.</summary>
internal sealed partial class FileService(MachineRegistry machines, DaemonOptions options)
    : V1.FileService.FileServiceBase
{
    private void CheckSize(ulong size)
    {
        var most = options.Limits.FileBytesMax;
        if (size > most) throw Refusals.Limit("file_bytes_max", most, size);
    }

    /// <summary>Runs a call that changes a file, and answers with the file.</summary>
    private static async Task<V1.File> ChangeAsync(
        MachineHost host, string id, string call, Func<FileId, ValueTask<SyscallResult>> change)
    {
        var file = host.Files.Get(id);
        var error = (await change(file.Thing).ConfigureAwait(false)).Error;
        return error == Errno.None ? Views.Of(host, file) : throw Refusals.Errno(call, error);
    }
}
